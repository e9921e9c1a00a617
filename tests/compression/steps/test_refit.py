"""Whether a refit gives back what a cut took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ensemble.compression.decoder_layers import keep_decoder_layers
from ensemble.compression.steps.prune_width import PruneWidth, keep_channels
from ensemble.compression.steps.refit import RIDGES, Refit
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import INTERMEDIATE, build_gemma3, build_llama
from tests.compression.step_contexts import build_context, build_windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedModel

    from ensemble.compression.step import StepContext

HALF = INTERMEDIATE // 2
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


def context_of(original: Callable[[], PreTrainedModel], original_layers: tuple[int, ...] = (0, 1, 2, 3)) -> StepContext:
    return build_context(calibrate_WT=CALIBRATE_WT, load_original=original, original_layers=original_layers)


@torch.inference_mode()
def measure_error(model: PreTrainedModel, original: Callable[[], PreTrainedModel]) -> float:
    """Give the relative error of what goes into the head, on windows that no step has seen."""

    def read(reader: PreTrainedModel) -> Tensor:
        hidden_WTD: Tensor = reader.model(HELD_OUT_WT).last_hidden_state
        return hidden_WTD

    wanted_WTD = read(original())
    return float((read(model) - wanted_WTD).norm() / wanted_WTD.norm())


def twinned(build: Callable[[], PreTrainedModel]) -> Callable[[], PreTrainedModel]:
    """Make models the second half of whose channels have the activations of the first."""

    def build_twinned() -> PreTrainedModel:
        model = strong(build)()
        with torch.no_grad():
            for layer in model.model.layers:
                for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
                    linear.weight[HALF:] = linear.weight[:HALF]
        return model

    return build_twinned


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_what_the_channels_that_stay_can_say_is_given_back_whole(build: Callable[[], PreTrainedModel]) -> None:
    original = twinned(build)
    model = original()
    keep_channels(model, [torch.arange(HALF)] * 4)
    before = measure_error(model, original)

    result = Refit(ridge=1e-7).take(model, context_of(original))

    assert before > 0.1
    assert measure_error(model, original) < 0.001
    assert [(fit["layer"], fit["part"]) for fit in result.findings["fits"][:3]] == [
        (0, "attention"),
        (0, "mlp"),
        (1, "attention"),
    ]
    assert result.findings["fits"][1]["given_back"] == pytest.approx(1.0, abs=1e-4)
    assert result.findings["relative_error"] < 0.001


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_the_layer_after_a_dropped_one_gives_back_a_part_of_what_it_did(build: Callable[[], PreTrainedModel]) -> None:
    original = strong(build)
    model = original()
    keep_decoder_layers(model, [0, 2, 3])
    before = measure_error(model, original)

    Refit().take(model, context_of(original, original_layers=(0, 2, 3)))

    assert measure_error(model, original) < 0.97 * before


def test_a_model_that_lost_nothing_stays_as_it_is() -> None:
    original = strong(build_llama)
    model = original()

    result = Refit().take(model, context_of(original))

    for name, tensor in original().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert result.findings["relative_error"] == 0.0


def test_the_same_inputs_give_the_same_bits() -> None:
    original = strong(build_llama)
    models = [original(), original()]

    for model in models:
        PruneWidth(width=48, multiple_of=16).take(model, context_of(original))
        Refit().take(model, context_of(original))

    states = [model.state_dict() for model in models]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_ridge_of_its_own_is_chosen_for_every_part() -> None:
    original = strong(build_llama)
    model = original()
    PruneWidth(width=48, multiple_of=16).take(model, context_of(original))

    fits = Refit().take(model, context_of(original)).findings["fits"]

    assert {fit["ridge"] for fit in fits} <= set(RIDGES)
    assert len({fit["ridge"] for fit in fits}) > 1


def test_a_model_of_another_build_is_refused() -> None:
    model = build_llama()
    model.model.layers[1].mlp = torch.nn.Linear(32, 32)

    with pytest.raises(ConfigError, match="not those of Llama or Gemma"):
        Refit().check(model)
