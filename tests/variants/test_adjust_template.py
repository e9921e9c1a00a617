"""Templates leave options open; what they leave open is told, and what makes no recipe is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.errors import ConfigError
from ensemble.variants.adjust_template import load_templates

RANGE = "{search: {from: 1, to: 3, step: 1}}"


def write(folder: Path, text: str, *, name: str = "cut") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, "utf-8")
    return path


def names_of(path: Path) -> list[list[str]]:
    return [[point.name for point in chain.points] for chain in load_templates([path])]


def test_a_range_is_one_chain_from_the_mildest_to_the_strongest(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "steps: [{type: prune_weights, score: magnitude, sparsity: {search: {from: 0.1, to: 0.5, step: 0.2}}}]",
    )

    (chain,) = load_templates([path])

    assert [point.name for point in chain.points] == ["cut(sparsity=0.1)", "cut(sparsity=0.3)", "cut(sparsity=0.5)"]
    assert [point.recipe.model_dump()["steps"][0]["sparsity"] for point in chain.points] == [0.1, 0.3, 0.5]


def test_whole_numbers_stay_whole_and_may_fall(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: [{type: prune_layers, num_layers: {search: {from: 6, to: 1, step: 2}}}]")

    assert names_of(path) == [["cut(num_layers=6)", "cut(num_layers=4)", "cut(num_layers=2)"]]


def test_every_value_of_a_list_is_a_chain_of_its_own_with_the_range_in_it(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "seed: {search: [0, 1]}\n"
        "steps:\n"
        "- {type: prune_layers, num_layers: {search: {from: 1, to: 2, step: 1}}, protect_first: {search: [0, 2]}}\n"
        "- {type: quantize_int8}\n",
    )

    named = names_of(path)

    assert len(named) == 4
    assert named[1] == [f"cut(seed=0, protect_first=2, num_layers={number})" for number in (1, 2)]


def test_two_options_of_one_name_are_told_apart(tmp_path: Path) -> None:
    step = "{type: prune_weights, score: magnitude, sparsity: {search: [0.25]}}"
    other = write(tmp_path, f"steps: [{step}, {{type: prune_layers, num_layers: 1}}, {step}]")

    assert names_of(other) == [["cut(steps.0.sparsity=0.25, steps.2.sparsity=0.25)"]]


def test_a_recipe_with_nothing_open_is_one_point(tmp_path: Path) -> None:
    assert names_of(write(tmp_path, "steps: [{type: quantize_int8}]")) == [["cut"]]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "steps: [{type: prune_weights, score: magnitude, sparsity: {search: {from: 0.1, to: 1.5, step: 0.1}}}]",
            r"with sparsity=1\.0",
        ),
        ("steps: [{type: prune_weights, score: magnitude, sparsity: {search: []}}]", "it is no search"),
        (
            "steps: [{type: prune_weights, score: magnitude, sparsity: {search: {from: 0.1, to: 0.5}}}]",
            "it is no search",
        ),
        (
            "steps: [{type: prune_weights, score: magnitude, sparsity: {search: {from: 0.1, to: 0.5, step: 0}}}]",
            "it is no search",
        ),
        (
            "steps: [{type: prune_weights, score: magnitude, sparsity: {search: {from: 0.1, to: 0.5, step: 0.0001}}}]",
            "more than 1000",
        ),
        (
            "steps: [{type: prune_weights, score: magnitude, sparsity: {search: [0.1], of: 2}}]",
            "nothing else can be said",
        ),
        (f"steps: [{{type: prune_layers, num_layers: {RANGE}, protect_first: {RANGE}}}]", "are ranges"),
        (
            f"seed: {{search: {list(range(400))}}}\nsteps: [{{type: prune_layers, num_layers: {RANGE}}}]",
            "more than 1000",
        ),
        ("steps: [{type: prune_layers, number: {search: [1]}}]", "with number=1"),
        ("[", "not YAML"),
    ],
)
def test_what_makes_no_recipe_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_templates([write(tmp_path, text)])


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    paths = [write(folder, "steps: [{type: quantize_int8}]") for folder in (tmp_path, tmp_path / "other")]

    with pytest.raises(ConfigError, match="the same name"):
        load_templates(paths)


def test_the_example_templates_leave_something_open() -> None:
    paths = sorted((Path(__file__).parents[2] / "deploy" / "templates").glob("*.yaml"))

    chains = load_templates(paths)

    assert len(paths) >= 3
    assert all(len(chain.points) > 1 for chain in chains)
