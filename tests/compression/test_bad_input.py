"""What cannot work: one clear error, before anything is measured, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ensemble.checkpoints.progress import ignore_phase
from ensemble.compression.checks import check_outputs
from ensemble.compression.compress import Variant, compress, make_variants
from ensemble.compression.recipe import Recipe
from ensemble.compression.source import open_source
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_llama, save
from tests.compression.test_step_contract import build_bert, build_gpt2

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from ensemble.compression.standing import Standing

PRUNE = {"type": "prune_layers", "num_layers": 1}
INT8 = {"type": "quantize_int8"}


def fill(value: float) -> Callable[[], PreTrainedModel]:
    def build() -> PreTrainedModel:
        model = build_llama()
        with torch.no_grad():
            model.model.layers[2].mlp.up_proj.weight[0, 0] = value
        return model

    return build


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def name_unknown_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nobody-knows"}))


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def keep(_folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("build", "harm", "problem"),
    [
        (fill(float("nan")), keep, "layers.2.mlp.up_proj.weight holds weights that are not finite"),
        (fill(float("inf")), keep, "layers.2.mlp.up_proj.weight holds weights that are not finite"),
        (build_gpt2, keep, "a GPT2LMHeadModel has no plain stack of decoder layers"),
        (build_bert, keep, "a BertForSequenceClassification has no plain stack of decoder layers"),
        (build_llama, remove_weights, "there is no model.safetensors"),
        (build_llama, cut_weights, "it is damaged or cut short"),
        (build_llama, break_config, "config.json cannot be read"),
        (build_llama, name_unknown_type, "its config makes no model"),
        (build_llama, remove_tokenizer, "its tokenizer"),
    ],
)
def test_a_source_that_cannot_be_compressed_is_told(
    tmp_path: Path, build: Callable[[], PreTrainedModel], harm: Callable[[Path], None], problem: str
) -> None:
    source = save(build(), tmp_path / "source")
    harm(Path(source))

    check_refused(source, tmp_path, {"steps": [PRUNE]}, problem=problem)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("/nowhere/at/all", "there is no such folder or file"),
        ("package:no_such_package/model.gguf", "the Python package no_such_package is not installed"),
        ("no-such-organisation/no-such-model", "the hub"),
    ],
)
def test_an_original_that_is_missing_is_told(
    tmp_path: Path, source: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    check_refused(source, tmp_path, {"steps": [INT8]}, problem=problem)


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        ({"steps": [{"type": "prune_layers", "num_layers": 3}]}, "3 layers cannot be dropped"),
        ({"steps": [PRUNE, {"type": "prune_layers", "num_layers": 2}]}, "of 3, 1 are not protected"),
        ({"steps": [{"type": "quantize_int8", "ignore": ["re:.*"]}]}, "no linear layer is left"),
        ({"steps": [{"type": "quantize_int8", "ignore": []}]}, "lm_head shares its weight"),
        (
            {"steps": [INT8], "calibration": {"window_tokens": 1024}},
            "windows of 1024 tokens are longer than the model's context of 512",
        ),
        ({"steps": [INT8], "calibration": {"window_tokens": 510}}, None),
    ],
)
def test_a_recipe_that_does_not_fit_the_model_is_told(tmp_path: Path, recipe: Any, problem: str | None) -> None:
    source = save(build_llama(), tmp_path / "source")

    if problem is None:
        compress(source, Recipe.model_validate(recipe), tmp_path / "out")
    else:
        check_refused(source, tmp_path, recipe, problem=problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "text.txt: it holds no text"),
        (b"too short", "it has 2 tokens, and at least 1024 are needed"),
        (b"\xff\xfe\xff", "cannot be read"),
    ],
)
def test_text_that_cannot_calibrate_is_told(tmp_path: Path, content: bytes, problem: str) -> None:
    source = save(build_llama(), tmp_path / "source")
    text = tmp_path / "text.txt"
    text.write_bytes(content)

    check_refused(source, tmp_path, {"steps": [PRUNE]}, problem=problem, texts=[text])


@pytest.mark.parametrize("is_cache", [False, True])
def test_a_place_that_is_a_file_is_told(tmp_path: Path, *, is_cache: bool) -> None:
    source = save(build_llama(), tmp_path / "source")
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "inside"

    check_refused(
        source,
        tmp_path,
        {"steps": [INT8]},
        problem=f"{tmp_path}/file is a file",
        output=None if is_cache else place,
        cache=place if is_cache else None,
    )


def test_a_cache_that_is_a_file_is_told_where_the_source_is_open_already(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    opened = open_source(source, cache_dir=tmp_path, allow_compressed=False, on_phase=ignore_phase)
    variant = Variant(recipe=Recipe.model_validate({"steps": [INT8]}), output=tmp_path / "out")
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match=f"{tmp_path}/file is a file"):
        make_variants(opened, [variant], cache_dir=tmp_path / "file")


@pytest.mark.parametrize("name", [".", "cache/compressing"])
def test_a_place_that_takes_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    source, place = save(build_llama(), tmp_path / "source"), tmp_path / name
    place.mkdir(parents=True, exist_ok=True)
    # Root may write wherever the file system itself does.
    monkeypatch.setattr(os, "access", lambda asked, mode: asked != place or not mode & os.W_OK)

    check_refused(source, tmp_path, {"steps": [INT8]}, problem=f"nothing can be written into {place}")


def test_a_place_that_may_not_even_be_looked_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shut, stat = tmp_path / "shut", Path.stat
    shut.mkdir()

    def refuse_inside(path: Path, **options: bool) -> os.stat_result:
        if shut in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, **options)

    # Root may look everywhere.
    monkeypatch.setattr(Path, "stat", refuse_inside)
    monkeypatch.setattr(os, "access", lambda asked, _mode: asked != shut)

    with pytest.raises(ConfigError, match=f"nothing can be written into {shut}"):
        check_outputs([shut / "deep" / "out"])


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ({"type": "quantize_int8"}, "a GPT2LMHeadModel has no linear layers but its head"),
        ({"type": "prune_weights", "score": "magnitude"}, "a GPT2LMHeadModel has no linear layers but its head"),
    ],
)
def test_a_model_without_linear_layers_is_told_by_its_type(tmp_path: Path, step: Any, problem: str) -> None:
    # Its layers are convolutions of one place.
    source = save(build_gpt2(), tmp_path / "source")

    check_refused(source, tmp_path, {"steps": [step]}, problem=problem)


def test_a_classifier_is_asked_for_no_text_of_its_own(tmp_path: Path) -> None:
    source = save(build_bert(), tmp_path / "source")

    check_refused(
        source, tmp_path, {"steps": [INT8], "calibration": {"own_tokens": 64}}, problem="a classifier writes no text"
    )


def check_refused(
    source: str,
    folder: Path,
    recipe: Any,
    *,
    problem: str,
    texts: list[Path] | None = None,
    output: Path | None = None,
    cache: Path | None = None,
) -> None:
    """See that one error comes before anything is measured, with a remedy, and that nothing is written."""
    told: list[Standing] = []

    with pytest.raises(ConfigError, match=problem) as refused:
        compress(
            source,
            Recipe.model_validate(recipe),
            output or folder / "out",
            calibration_texts=texts or [],
            cache_dir=cache or folder / "cache",
            on_progress=told.append,
        )

    assert refused.value.remedy
    assert {standing.part for standing in told} <= {"source"}
    assert not (folder / "out").exists()
    assert not list((folder / "cache").rglob("*.safetensors"))
