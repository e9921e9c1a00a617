"""Whether a refit gives back what a cut took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ensemble.compression.decoder_layers import keep_decoder_layers
from ensemble.compression.steps.prune_width import PruneWidth
from ensemble.compression.steps.refit import Refit
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_gemma3, build_llama
from tests.compression.step_contexts import build_context, build_windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedModel

    from ensemble.compression.step import StepContext

CALIBRATE_WT, HELD_OUT_WT = build_windows(16, 64, seed=1), build_windows(4, 64, seed=2)


def strong(build: Callable[[], PreTrainedModel]) -> Callable[[], PreTrainedModel]:
    """Make layers that matter: a random model of small weights hands its input on."""

    def build_strong() -> PreTrainedModel:
        model = build()
        with torch.no_grad():
            for layer in model.model.layers:
                for linear in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj, layer.self_attn.o_proj):
                    linear.weight.mul_(10.0)
        return model

    return build_strong


def context_of(original: Callable[[], PreTrainedModel], **options: tuple[int, ...]) -> StepContext:
    return build_context(calibrate_WT=CALIBRATE_WT, load_original=original, **options)


@torch.inference_mode()
def measure_error(model: PreTrainedModel, original: Callable[[], PreTrainedModel]) -> float:
    """Give the relative error of what goes into the head, on windows that no step has seen."""

    def read(reader: PreTrainedModel) -> Tensor:
        hidden_WTD: Tensor = reader.model(HELD_OUT_WT).last_hidden_state
        return hidden_WTD

    wanted_WTD = read(original())
    return ((read(model) - wanted_WTD).norm() / wanted_WTD.norm()).item()


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_a_narrow_mlp_follows_the_original_more_closely_after_a_refit(build: Callable[[], PreTrainedModel]) -> None:
    original = strong(build)
    model = original()
    PruneWidth(width=48, multiple_of=16).take(model, context_of(original))
    before = measure_error(model, original)

    result = Refit().take(model, context_of(original))

    after = measure_error(model, original)
    assert after < 0.8 * before
    assert len(result.findings["fits"]) == 8
