"""A compression that ended in the middle goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ensemble.compression import variant_run
from ensemble.compression.compress import compress
from ensemble.compression.perplexity import measure_perplexity
from ensemble.compression.recipe import Recipe
from ensemble.compression.source import Source
from ensemble.compression.standing import Standing
from ensemble.compression.steps.prune_layers import PruneLayers
from ensemble.compression.steps.quantize_int8 import QuantizeInt8
from tests.checkpoints.tiny_models import build_llama, save

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from ensemble.compression.step import StepContext, StepResult

DOCUMENT: dict[str, Any] = {
    "steps": [
        {"type": "prune_layers", "num_layers": 1},
        {"type": "prune_weights", "score": "magnitude"},
        {"type": "quantize_int8"},
    ]
}
RECIPE = Recipe.model_validate(DOCUMENT)


def end(*_args: object) -> StepResult:
    raise KeyboardInterrupt


def refuse(_source: Source) -> PreTrainedModel:
    raise AssertionError("the source's weights were read")


def note_layers_pruned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list to which each pruning of layers from now on adds itself."""
    taken: list[str] = []
    take = PruneLayers.take

    def note(step: PruneLayers, model: PreTrainedModel, context: StepContext) -> StepResult:
        taken.append(step.type)
        return take(step, model, context)

    monkeypatch.setattr(PruneLayers, "take", note)
    return taken


def test_a_run_that_goes_on_gives_the_bytes_of_one_that_never_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(build_llama(), tmp_path / "source")
    compress(source, RECIPE, tmp_path / "whole", cache_dir=tmp_path / "cache")

    with monkeypatch.context() as patched:
        patched.setattr(QuantizeInt8, "take", end)
        with pytest.raises(KeyboardInterrupt):
            compress(source, RECIPE, tmp_path / "resumed", cache_dir=tmp_path / "cache")
    taken = note_layers_pruned(monkeypatch)
    report = compress(source, RECIPE, tmp_path / "resumed", cache_dir=tmp_path / "cache")

    assert taken == []
    assert [step["type"] for step in report.steps] == ["prune_layers", "prune_weights", "quantize_int8"]
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def note_measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the list to which each measuring of a perplexity from now on adds how many layers the model has."""
    measured: list[int] = []

    def note(model: PreTrainedModel, windows_WT: Tensor, **options: Any) -> float:
        measured.append(model.config.num_hidden_layers)
        return measure_perplexity(model, windows_WT, **options)

    monkeypatch.setattr(variant_run, "measure_perplexity", note)
    return measured


def test_a_run_that_goes_on_neither_measures_nor_reads_the_source_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, own_text = save(build_llama(), tmp_path / "source"), {"window_tokens": 32, "own_tokens": 64}
    recipe = Recipe.model_validate({**DOCUMENT, "calibration": own_text})
    whole = compress(source, recipe, tmp_path / "whole", cache_dir=tmp_path / "another-cache")
    with monkeypatch.context() as patched:
        patched.setattr(QuantizeInt8, "take", end)
        with pytest.raises(KeyboardInterrupt):
            compress(source, recipe, tmp_path / "resumed", cache_dir=tmp_path / "cache")
    measured, told = note_measured(monkeypatch), list[Standing]()
    monkeypatch.setattr(Source, "load", refuse)

    report = compress(source, recipe, tmp_path / "resumed", cache_dir=tmp_path / "cache", on_progress=told.append)

    assert measured == [3]
    assert report.perplexity_before == whole.perplexity_before
    parts = dict.fromkeys(standing.part for standing in told if standing.phase == "begin")
    assert list(parts) == ["own text", "step 3 of 3, quantize_int8", "perplexity after", "write"]


@pytest.mark.parametrize(
    ("changed", "layers"), [("recipe", [3]), ("text", [4, 3]), ("source", [4, 3]), ("threads", [4, 3])]
)
def test_the_source_is_measured_again_where_its_perplexity_may_be_another(
    changed: str, layers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(build_llama(), tmp_path / "source")
    first = compress(source, RECIPE, tmp_path / "first", cache_dir=tmp_path / "cache")
    recipe = Recipe.model_validate({**DOCUMENT, "seed": 5}) if changed == "recipe" else RECIPE
    other = save(build_llama(tied=False), tmp_path / "other") if changed == "source" else source
    text = tmp_path / "text.txt"
    text.write_text("queue " * 1100)
    if changed == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
    measured = note_measured(monkeypatch)

    second = compress(
        other,
        recipe,
        tmp_path / "second",
        calibration_texts=[text] if changed == "text" else [],
        cache_dir=tmp_path / "cache",
    )

    assert measured == layers
    assert (second.perplexity_before == first.perplexity_before) == (changed in {"recipe", "threads"})


def test_what_was_kept_of_a_source_with_another_chat_template_is_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = (save(build_llama(), tmp_path / name) for name in ("source", "other"))
    template = "{{ messages[0].content }}"
    (tmp_path / "other" / "chat_template.jinja").write_text(template)
    with monkeypatch.context() as patched:
        patched.setattr(QuantizeInt8, "take", end)
        with pytest.raises(KeyboardInterrupt):
            compress(source, RECIPE, tmp_path / "out", cache_dir=tmp_path / "cache")
    taken = note_layers_pruned(monkeypatch)

    compress(other, RECIPE, tmp_path / "out", cache_dir=tmp_path / "cache")

    assert taken == ["prune_layers"]
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == template


def test_what_was_kept_under_another_number_of_threads_is_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(build_llama(), tmp_path / "source")
    with monkeypatch.context() as patched:
        patched.setattr(QuantizeInt8, "take", end)
        patched.setattr(torch, "get_num_threads", lambda: 1000)
        with pytest.raises(KeyboardInterrupt):
            compress(source, RECIPE, tmp_path / "out", cache_dir=tmp_path / "cache")
    taken = note_layers_pruned(monkeypatch)

    report = compress(source, RECIPE, tmp_path / "out", cache_dir=tmp_path / "cache")

    assert taken == ["prune_layers"]
    assert report.threads == torch.get_num_threads()
