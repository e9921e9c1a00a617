"""Recipes as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ensemble.compression.recipe import load_recipe, parse_recipe
from ensemble.compression.steps.prune_layers import PruneLayers
from ensemble.compression.steps.quantize_int8 import QuantizeInt8
from ensemble.errors import ConfigError
from tests.compression.every_step import WAYS, describe_step

RECIPES = Path(__file__).parents[2] / "deploy" / "recipes"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_is_read_in_its_order(tmp_path: Path) -> None:
    path = write(tmp_path, "steps:\n- {type: prune_layers, num_layers: 6}\n- {type: quantize_int8, ignore: [lm_head]}")

    recipe = load_recipe(path)

    assert recipe.steps == (PruneLayers(num_layers=6), QuantizeInt8(ignore=("lm_head",)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "valid dictionary"),
        ("steps: []", "at least 1 item"),
        ("steps: [", "not YAML"),
        ("steps: [{type: distil}]", "distil"),
        ("steps: [{type: prune_layers}]", "Field required"),
        ("steps: [{type: prune_layers, num_layers: 0}]", "greater than or equal to 1"),
        ("steps: [{type: prune_layers, num_layers: 2, protect_first: -1}]", "greater than or equal to 0"),
        ("steps: [{type: prune_layers, num_layers: 0.3}]", "valid integer"),
        ("steps: [{type: quantize_int8, bits: 4}]", "Extra inputs"),
        ("steps: [{type: quantize_int8}, {type: prune_layers, num_layers: 1}]", "must be the last step"),
        ("steps: [{type: quantize_int8}, {type: quantize_int8}]", "must be the last step"),
        ("steps: [{type: quantize_int4}, {type: quantize_int8}]", "quantize_int4 must be the last step"),
        ("steps: [{type: prune_weights, score: magnitude, sparsity: 1.0}]", "less than 1"),
        ("steps: [{type: prune_weights, sparsity: 0.5}]", "prune_weights.score: Field required"),
        ('steps: [{type: quantize_int8, ignore: ["re:["]}]', r"'re:\[' is not a regular expression"),
        ("steps: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_with_the_reason(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_recipe(write(tmp_path, text))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_example_recipes_hold_and_name_their_schema(path: Path) -> None:
    recipe = load_recipe(path)

    assert recipe.steps
    assert path.read_text("utf-8").splitlines()[0] == "# yaml-language-server: $schema=../recipe.schema.json"


@pytest.mark.parametrize(("name", "options"), WAYS)
def test_a_recipe_as_a_record_says_it_is_the_same_recipe(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    recipe = parse_recipe({"steps": [{**describe_step(name), **options}]}, where="test")

    recorded = json.dumps(recipe.model_dump(mode="json"))

    assert load_recipe(write(tmp_path, recorded)) == recipe


def test_small_numbers_and_rare_characters_of_a_record_stay_what_they_are(tmp_path: Path) -> None:
    options = {"dampening_frac": 1e-05, "ignore": ["\N{OCTOPUS}"]}
    modifiers = [{"name": "GPTQModifier", "options": options}]
    recipe = parse_recipe({"steps": [{"type": "llm_compressor", "modifiers": modifiers}]}, where="test")

    recorded = json.dumps(recipe.model_dump(mode="json"))

    assert load_recipe(write(tmp_path, recorded)) == recipe


def test_an_absent_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
