"""``ensemble compare`` prints the tables, writes what it is asked to write, and refuses what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensemble.checkpoints.store import CheckpointStore
from ensemble.checkpoints.store_listing import list_models
from ensemble.cli.compare import split_name
from ensemble.cli.entry import app
from tests.variants.made_models import save_original, save_variant


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    base = save_original(folder / "base")
    return base, save_variant(folder / "int8", base, noise=0.001)


def test_the_tables_the_json_and_the_page_tell_of_both(checkpoints: tuple[str, str], tmp_path: Path) -> None:
    base, variant = checkpoints
    figures, page = tmp_path / "figures.json", tmp_path / "report.html"

    result = run(f"tiny={base}", f"rounded={variant}", "--no-speed", "--json", figures, "--html", page)

    assert result.exit_code == 0, result.output
    assert "compare: check digest" in result.stderr
    lines = result.stdout.splitlines()
    (row,) = [line for line in lines if line.startswith("rounded") and "prune_width" not in line]
    document = json.loads(figures.read_text())
    by_name = {one["name"]: one for one in document["variants"]}
    assert f"{by_name['rounded']['beside']['perplexity_ratio']['value']:.3f} [" in row
    assert any(line.startswith("rounded") and "prune_width, quantize_int8" in line for line in lines)
    assert "All of these come from one base." in result.stdout
    assert "<h1>Variants of tiny</h1>" in page.read_text()


def test_what_is_said_of_a_stored_variant_is_kept_with_it_and_its_digest_stays(
    checkpoints: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ENSEMBLE_CACHE_DIR", str(tmp_path / "cache"))
    store = CheckpointStore.at(str(tmp_path / "store"))
    base, variant = checkpoints
    stored = store.put(Path(variant), "int8", family="tiny", source=base)

    result = run(base, "store:int8", "--no-speed")

    assert result.exit_code == 0, result.output
    assert any(line.startswith("int8") for line in result.stdout.splitlines())
    (model,) = list_models(store)
    assert (model.digest, model.problem) == (stored.digest, "")
    assert model.evaluation is not None
    assert model.evaluation["variant"]["name"] == "int8"
    assert model.evaluation["variant"]["beside"]["agreement"]["value"] > 0.8
    assert model.evaluation["original"]["is_original"]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (("--scoring", "loudest"), "'loudest' is no rule"),
        (("--text", "/nowhere/text.txt"), "there is no such file"),
        (("--json", "/nowhere/figures.json"), "no file can be written there"),
        (("--add-bos", "other"), "'other' is no original"),
        (("--original", "x=/nowhere/model"), "/nowhere/model"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_measured(
    checkpoints: tuple[str, str], more: tuple[str, ...], problem: str
) -> None:
    result = run(f"tiny={checkpoints[0]}", checkpoints[1], *more)

    assert result.exit_code == 2
    assert problem in result.stderr
    assert "round 1" not in result.stderr


def test_items_without_choices_are_refused(checkpoints: tuple[str, str], tmp_path: Path) -> None:
    items = tmp_path / "words.jsonl"
    items.write_text('{"id": "1", "prompt": "The sky is", "reference": "blue"}\n')

    result = run(*checkpoints, "--items", items)

    assert result.exit_code == 2
    assert "has no choices to choose among" in result.stderr


def test_a_line_that_cannot_be_used_is_refused_and_left_out_on_request(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"prompt": "a", "choices": ["x", "y"], "answer": 0}\n{"prompt": "b", "choices": ["x", "x"]}\n')

    refused = run("/nowhere", "/nowhere", "--items", items)
    left_out = run("/nowhere", "/nowhere", "--items", items, "--leave-out")

    assert "1 of 2 lines cannot be used" in refused.stderr
    assert "1 lines are left out" in left_out.stderr
    assert "cannot be used" not in left_out.stderr


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("small=org/name", ("small", "org/name")),
        ("/models/a=b", ("", "/models/a=b")),
        ("package:x/y=z.gguf", ("", "package:x/y=z.gguf")),
        ("./plain", ("", "./plain")),
        ("a=b=c", ("a", "b=c")),
        ("a=", ("", "a=")),
    ],
)
def test_a_name_stands_before_the_first_equals_sign_unless_that_is_in_a_path(
    typed: str, parts: tuple[str, str]
) -> None:
    assert split_name(typed) == parts
