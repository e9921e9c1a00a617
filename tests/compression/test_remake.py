"""A variant is made again from what its record says, of the same inputs alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ensemble.compression.compress import Variant, compress, make_variants
from ensemble.compression.recipe import Recipe
from ensemble.compression.record import TIMES_NAME
from ensemble.compression.remake import Remake, load_recipe_or_record
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_llama, save
from tests.compression.every_step import describe_step

if TYPE_CHECKING:
    from pathlib import Path

    from ensemble.compression.standing import Standing

RECIPE = {
    "steps": [
        {"type": "prune_width", "width": 48, "multiple_of": 16},
        {"type": "distill", "tokens": 128},
        {"type": "quantize_int4", "method": "gptq"},
    ],
    "seed": 3,
    "calibration": {"window_tokens": 64, "num_windows": 4, "own_tokens": 64},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a source, a text, and the variant that was made of both."""
    folder = tmp_path_factory.mktemp("made")
    save(build_llama(), folder / "source")
    (folder / "text.txt").write_text("the old man walked along the road to the sea and told what he had seen " * 100)
    compress(
        str(folder / "source"),
        Recipe.model_validate(RECIPE),
        folder / "variant",
        calibration_texts=[folder / "text.txt"],
        cache_dir=folder / "cache",
    )
    return folder


def read_record(made: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((made / "variant/compression.json").read_text())
    return record


def make_again(made: Path, output: Path, *, source: str, texts: list[Path]) -> list[Standing]:
    told: list[Standing] = []
    recipe, remake = load_recipe_or_record(made / "variant/compression.json")
    make_variants(
        source,
        [Variant(recipe=recipe, output=output, remake=remake)],
        calibration_texts=texts,
        cache_dir=output.parent / "cache",
        on_progress=told.append,
    )
    return told


def test_the_record_is_enough_to_get_every_byte_again(made: Path, tmp_path: Path) -> None:
    make_again(made, tmp_path / "again", source=str(made / "source"), texts=[made / "text.txt"])

    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.name != TIMES_NAME}
        for folder in (made / "variant", tmp_path / "again")
    )
    assert first == second


@pytest.mark.parametrize(
    ("is_source", "problem"), [(True, "made of .*source, sha256:"), (False, r"text: text\.txt \(")]
)
def test_other_inputs_than_the_record_s_are_refused_before_anything_is_measured(
    made: Path, tmp_path: Path, *, is_source: bool, problem: str
) -> None:
    other = save(build_llama(tied=False), tmp_path / "other") if is_source else str(made / "source")
    texts = [made / "text.txt"] if is_source else []

    with pytest.raises(ConfigError, match=problem):
        make_again(made, tmp_path / "again", source=other, texts=texts)

    assert not (tmp_path / "again").exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_file_of_other_content_than_the_recorded_one_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, remake = load_recipe_or_record(made / "variant/compression.json")
    assert remake is not None
    text: Any = type("Text", (), {"digest": remake.calibration_digest})()
    monkeypatch.setattr(type(recipe.steps[0]), "digest_files", lambda _step: {"record_digest": "sha256:other"})

    with pytest.raises(ConfigError, match="prune_width was given a file of other content"):
        remake.check(remake.source_digest, text, recipe)


def test_other_versions_and_threads_are_told(made: Path) -> None:
    record = read_record(made)
    versions = {**record["versions"], "torch": "0.1", "gone": "2"}

    remake = Remake.read({**record, "versions": versions, "threads": 1000}, where="record")
    same = Remake.read(record, where="record")

    torch, gone, threads = remake.list_differences()
    assert torch.startswith("torch was 0.1 and is ")
    assert gone == "gone was 2 and is not there"
    assert threads.startswith("torch had 1000 threads and has ")
    assert same.list_differences() == ()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"threads": "many"}, "threads: the record cannot be read"),
        ({"calibration": {"texts": ["text.txt"]}}, r"calibration\.texts\.0: the record cannot be read"),
        ({"recipe": {"steps": []}}, "steps: .*at least 1"),
        ({"recipe": {"steps": [{**describe_step("llm_compressor"), "python": "/bin/true"}]}}, "names a program to run"),
    ],
)
def test_a_record_that_was_damaged_or_forged_is_told(
    made: Path, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "compression.json"
    path.write_text(json.dumps({**read_record(made), **change}))

    with pytest.raises(ConfigError, match=problem):
        load_recipe_or_record(path)


def test_a_recipe_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: [{type: quantize_int8}]")

    recipe, remake = load_recipe_or_record(path)

    assert recipe.steps[0].type == "quantize_int8"
    assert remake is None
