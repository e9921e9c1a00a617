"""A compression that ended in the middle goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ensemble.compression.compress import compress
from ensemble.compression.recipe import Recipe
from ensemble.compression.steps.prune_layers import PruneLayers
from ensemble.compression.steps.quantize_int8 import QuantizeInt8
from tests.checkpoints.tiny_models import build_llama, save

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from ensemble.compression.step import StepContext, StepResult

RECIPE = Recipe.model_validate(
    {
        "steps": [
            {"type": "prune_layers", "num_layers": 1},
            {"type": "prune_weights", "score": "magnitude"},
            {"type": "quantize_int8"},
        ]
    }
)


def end(*_args: object) -> StepResult:
    raise KeyboardInterrupt


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
    assert not [path for path in (tmp_path / "cache" / "compressing").iterdir() if path.is_dir()]


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
