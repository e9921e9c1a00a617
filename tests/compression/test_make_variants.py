"""Several variants of one source in one command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ensemble.compression import compress as compress_module
from ensemble.compression.compress import Variant, compress, make_variants
from ensemble.compression.full_disk import check_room
from ensemble.compression.recipe import Recipe
from ensemble.compression.source import Source
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_llama, save

if TYPE_CHECKING:
    from pathlib import Path

    from ensemble.compression.standing import Standing

PRUNE = Recipe.model_validate({"steps": [{"type": "prune_layers", "num_layers": 1}]})
INT8 = Recipe.model_validate({"steps": [{"type": "quantize_int8"}]})


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "compression-times.json"}


def test_each_variant_is_what_a_command_of_its_own_makes(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    variants = [Variant(recipe=PRUNE, output=tmp_path / "prune"), Variant(recipe=INT8, output=tmp_path / "int8")]

    reports = make_variants(source, variants)

    compress(source, PRUNE, tmp_path / "prune-alone")
    compress(source, INT8, tmp_path / "int8-alone")
    assert [report.output for report in reports] == [str(tmp_path / "prune"), str(tmp_path / "int8")]
    assert read(tmp_path / "prune") == read(tmp_path / "prune-alone")
    assert read(tmp_path / "int8") == read(tmp_path / "int8-alone")


def test_the_source_is_measured_and_its_text_written_once_for_all(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    calibration = {"window_tokens": 32, "own_tokens": 64}
    recipes = [Recipe.model_validate({**recipe.model_dump(), "calibration": calibration}) for recipe in (PRUNE, INT8)]
    variants = [Variant(recipe=recipe, output=tmp_path / str(number)) for number, recipe in enumerate(recipes)]
    told: list[Standing] = []

    make_variants(source, variants, on_progress=told.append)

    begun = [(standing.variant, standing.part) for standing in told if standing.phase == "begin"]
    assert begun == [
        ("", "perplexity before"),
        ("", "own text"),
        ("0", "step 1 of 1, prune_layers"),
        ("0", "perplexity after"),
        ("0", "write"),
        ("1", "step 1 of 1, quantize_int8"),
        ("1", "perplexity after"),
        ("1", "write"),
    ]
    records = [json.loads((tmp_path / name / "compression.json").read_text()) for name in "01"]
    digests = [record["calibration"]["own_text_digest"] for record in records]
    assert digests[0] == digests[1] is not None


def test_what_is_there_already_is_neither_made_nor_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(build_llama(), tmp_path / "source")
    variants = [Variant(recipe=PRUNE, output=tmp_path / "prune"), Variant(recipe=INT8, output=tmp_path / "int8")]
    reports = make_variants(source, variants)

    def refuse(_source: Source) -> Any:
        raise AssertionError("the source's weights were read")

    monkeypatch.setattr(Source, "load", refuse)
    again = make_variants(source, variants)

    assert again == reports


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_source_with_the_same_weights_but_another_file_beside_them_is_another_source(
    tmp_path: Path, file: str
) -> None:
    source = save(build_llama(), tmp_path / "source")
    # The same to whoever reads it, but for the template.
    with (tmp_path / "source" / file).open("a") as stream:
        stream.write("\n")
    other = save(build_llama(), tmp_path / "other")
    compress(source, INT8, tmp_path / "out")

    with pytest.raises(ConfigError, match="it exists already, made of another source, recipe or text"):
        compress(other, INT8, tmp_path / "out")


@pytest.mark.parametrize("change", ["recipe", "text", "source"])
def test_an_output_made_otherwise_is_never_touched(tmp_path: Path, change: str) -> None:
    source = save(build_llama(), tmp_path / "source")
    compress(source, INT8, tmp_path / "out")
    before = read(tmp_path / "out")
    text = tmp_path / "text.txt"
    text.write_text("queue " * 1100)
    other = save(build_llama(tied=False), tmp_path / "other") if change == "source" else source

    with pytest.raises(ConfigError, match="it exists already, made of another source, recipe or text"):
        compress(
            other,
            PRUNE if change == "recipe" else INT8,
            tmp_path / "out",
            calibration_texts=[text] if change == "text" else [],
        )

    assert read(tmp_path / "out") == before


def test_two_recipes_never_write_one_folder(tmp_path: Path) -> None:
    variants = [Variant(recipe=recipe, output=tmp_path / "out") for recipe in (PRUNE, INT8)]

    with pytest.raises(ConfigError, match="two recipes would write it"):
        make_variants(save(build_llama(), tmp_path / "source"), variants)


def test_the_second_recipe_is_checked_before_the_first_is_followed(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    impossible = Recipe.model_validate({"steps": [{"type": "prune_layers", "num_layers": 9}]})
    variants = [Variant(recipe=INT8, output=tmp_path / "int8"), Variant(recipe=impossible, output=tmp_path / "other")]

    with pytest.raises(ConfigError, match="9 layers cannot be dropped"):
        make_variants(source, variants)

    assert not (tmp_path / "int8").exists()


def test_a_compressed_source_is_compressed_further_only_when_that_is_said(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    compress(source, PRUNE, tmp_path / "pruned")
    variant = Variant(recipe=INT8, output=tmp_path / "int8")

    with pytest.raises(ConfigError, match=r"it was compressed already; .*--allow-compressed"):
        make_variants(str(tmp_path / "pruned"), [variant])
    (report,) = make_variants(str(tmp_path / "pruned"), [variant], allow_compressed=True)

    assert report.steps[0]["num_layers"] == 3 * 7


def test_a_quantized_source_is_refused_whatever_is_said(tmp_path: Path) -> None:
    compress(save(build_llama(), tmp_path / "source"), INT8, tmp_path / "int8")

    with pytest.raises(ConfigError, match="it is quantised already"):
        make_variants(str(tmp_path / "int8"), [Variant(recipe=PRUNE, output=tmp_path / "out")], allow_compressed=True)


def test_a_disk_without_room_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(build_llama(), tmp_path / "source")
    two = Recipe.model_validate({"steps": [{"type": "prune_layers", "num_layers": 1}] * 2})
    needed: list[tuple[Path, int]] = []

    def note(needs: list[tuple[Path, int]]) -> None:
        needed.extend(needs)
        check_room([(place, num_bytes + 2**60) for place, num_bytes in needs])

    monkeypatch.setattr(compress_module, "check_room", note)
    told: list[Standing] = []

    with pytest.raises(ConfigError, match="MiB are needed"):
        compress(source, two, tmp_path / "out", on_progress=told.append)

    assert {standing.part for standing in told} == {"source"}
    state, written = needed
    with_three_layers, with_two = (
        sum(parameter.numel() for parameter in build_llama(num_layers=count).parameters()) for count in (3, 2)
    )
    assert state[1] == 4 * (with_three_layers + with_two)
    assert written == (tmp_path / "out", 4 * with_two)
