"""Which channels of the residual stream stay, and what is left of the model."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM

from ensemble.compression.decoder_parts import read_gain
from ensemble.compression.layer_walk import take_inputs
from ensemble.compression.steps.prune_hidden import PruneHidden
from ensemble.compression.steps.refit import Refit
from ensemble.compression.stream_parts import find_stream_parts, keep_stream_channels, scale_gain
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import HIDDEN, build_gemma3, build_llama
from tests.compression.step_contexts import build_context, build_windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

WINDOWS_WT = build_windows()
STEP = PruneHidden(width=16, multiple_of=4)
KEPT = list(range(1, HIDDEN, 2))


def build_untied() -> PreTrainedModel:
    return build_llama(tied=False)


def quiet(model: PreTrainedModel, share: float) -> None:
    """Make every other channel of the stream one that holds only this share of what the others do."""
    parts = find_stream_parts(model, "test")
    with torch.no_grad():
        # Far above what norms add to the mean square.
        parts.embedding.weight *= 20.0
        parts.embedding.weight[:, ::2] *= share
        for writer in parts.writers:
            writer.weight *= 20.0
            writer.weight[::2] *= share


@pytest.mark.parametrize("build", [build_llama, build_untied, build_gemma3])
def test_channels_that_hold_nothing_go_and_nothing_changes(
    build: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    model = build()
    quiet(model, 0.0)
    with torch.inference_mode():
        before = model(WINDOWS_WT).logits

    result = STEP.take(model, build_context(calibrate_WT=WINDOWS_WT))

    assert result.findings["kept_hidden"] == KEPT
    assert result.findings["kept_share"] == pytest.approx(1.0)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.hidden_size == 16
    for after in (model, loaded):
        with torch.inference_mode():
            # What norms add to mean squares is not the same share of smaller ones.
            assert (after(WINDOWS_WT).logits - before).norm() < 0.005 * before.norm()


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_norms_over_fewer_channels_give_nearly_what_they_gave(build: Callable[[], PreTrainedModel]) -> None:
    original, scaled, unscaled = build(), build(), build()
    for model in (original, scaled, unscaled):
        quiet(model, 0.5)

    STEP.take(scaled, build_context(calibrate_WT=WINDOWS_WT))
    keep_stream_channels(unscaled, find_stream_parts(unscaled, "test"), torch.tensor(KEPT))

    stream_TD = take_inputs(original, original.model.layers[0], WINDOWS_WT[0])
    wanted_TD = original.model.layers[0].input_layernorm(stream_TD)[..., KEPT]
    scaled_error, unscaled_error = (
        ((model.model.layers[0].input_layernorm(stream_TD[..., KEPT]) - wanted_TD).norm() / wanted_TD.norm()).item()
        for model in (scaled, unscaled)
    )
    # The mean square of all channels is 0.625 of that of those that stay.
    assert unscaled_error == pytest.approx(1 - 0.625**0.5, abs=0.03)
    assert scaled_error < 0.1


def test_a_gain_is_multiplied_whether_or_not_a_model_keeps_it_less_1() -> None:
    for build in (build_llama, build_gemma3):
        norm = build().model.norm
        before_D = read_gain(norm, HIDDEN)

        scale_gain(norm, torch.linspace(0.5, 2.0, HIDDEN))

        assert torch.allclose(read_gain(norm, HIDDEN), before_D * torch.linspace(0.5, 2.0, HIDDEN), atol=1e-5)


def test_a_refit_makes_the_stream_that_is_left_follow_the_originals_channels() -> None:
    original = build_llama()
    quiet(original, 0.5)
    model = deepcopy(original)
    found = STEP.take(model, build_context(calibrate_WT=WINDOWS_WT)).findings

    def refit(hidden: list[int]) -> float:
        context = build_context(calibrate_WT=WINDOWS_WT, load_original=lambda: original, original_hidden=tuple(hidden))
        error: float = Refit().take(deepcopy(model), context).findings["relative_error"]
        return error

    assert refit(found["kept_hidden"]) < 0.3
    assert refit([channel - 1 for channel in found["kept_hidden"]]) > 0.9


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"ratio": 1.0}, "1 is no share"),
        ({"width": 18, "multiple_of": 2}, "18 is no multiple of 4"),
        ({"width": 8, "multiple_of": 4}, "more than half"),
        ({"ratio": 0.25, "multiple_of": 32}, "the multiple of 32 nearest to 0.75 of 32 is 32"),
    ],
)
def test_a_width_that_cannot_be_is_refused(options: dict[str, float], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        PruneHidden.model_validate(options).check(build_llama())


def test_a_model_with_weights_elsewhere_is_refused() -> None:
    model = build_llama()
    model.model.positions = torch.nn.Embedding(8, HIDDEN)

    with pytest.raises(ConfigError, match=r"other weights \(model.positions.weight\)"):
        STEP.check(model)
