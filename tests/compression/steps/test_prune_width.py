"""Which channels of an MLP stay, and what is left of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ensemble.compression.decoder_parts import find_decoder_parts
from ensemble.compression.steps.prune_width import PruneWidth, score_by_magnitude
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import INTERMEDIATE, build_gemma3, build_llama
from tests.compression.step_contexts import build_context, build_windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

WINDOWS_WT = build_windows()


def silence(model: PreTrainedModel, channels: list[int]) -> None:
    """Make channels that never add anything, however large their other weights are."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, channels] *= 1e-6
            layer.mlp.up_proj.weight[channels] *= 10.0


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_channels_that_add_nothing_go_and_nothing_changes(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    silence(model, list(range(0, INTERMEDIATE, 2)))
    kept_up_OI = model.model.layers[1].mlp.up_proj.weight[1::2].clone()
    with torch.inference_mode():
        before = model(WINDOWS_WT).logits

    result = PruneWidth(width=32, multiple_of=32).take(model, build_context(calibrate_WT=WINDOWS_WT))

    with torch.inference_mode():
        after = model(WINDOWS_WT).logits
    assert torch.allclose(after, before, atol=1e-4)
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, kept_up_OI)
    assert result.findings["kept_shares"] == pytest.approx([1.0] * 4, abs=1e-6)


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_a_config_says_the_new_width_and_a_plain_model_takes_the_weights(build: Callable[[], PreTrainedModel]) -> None:
    model = build()

    PruneWidth(ratio=0.25, multiple_of=16).take(model, build_context())

    assert model.config.intermediate_size == 48
    fresh = type(model)(model.config)
    fresh.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(fresh(WINDOWS_WT).logits, model(WINDOWS_WT).logits)


def test_a_channel_scores_by_its_activations_and_by_what_is_made_of_them() -> None:
    model = build_llama(num_layers=1)
    mlp = model.model.layers[0].mlp
    inputs: list[torch.Tensor] = []
    mlp.down_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(end_dim=1)))
    with torch.inference_mode():
        model(WINDOWS_WT)
    score_I = inputs[0].norm(dim=0) * mlp.down_proj.weight.detach().norm(dim=0)
    expected = mlp.gate_proj.weight.detach()[score_I.topk(32).indices.sort().values]

    PruneWidth(width=32, multiple_of=1).take(model, build_context(calibrate_WT=WINDOWS_WT))

    assert torch.equal(mlp.gate_proj.weight, expected)


def test_magnitude_takes_the_largest_absolute_weight_of_a_channel() -> None:
    model = build_llama(num_layers=1)
    mlp = model.model.layers[0].mlp
    with torch.no_grad():
        for linear in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
            linear.weight.zero_()
        mlp.gate_proj.weight[0, 3] = -0.5
        mlp.gate_proj.weight[0, 4] = 0.4
        mlp.up_proj.weight[1, 0] = 0.2
        mlp.down_proj.weight[5, 1] = -0.3
        mlp.down_proj.weight[5, 3] = 0.25

    score_I = score_by_magnitude(find_decoder_parts(model, "prune_width"))[0]
    PruneWidth(width=32, multiple_of=1, score="magnitude").take(model, build_context())

    assert score_I[:5].tolist() == pytest.approx([0.5, 0.3, 0.0, 0.25, 0.0])
    # Of the channels that are all zero, the earlier ones stay.
    assert mlp.up_proj.weight[1, 0].item() == pytest.approx(0.2)
    assert mlp.down_proj.weight[5, :4].tolist() == pytest.approx([0.0, -0.3, 0.0, 0.25])
    assert mlp.gate_proj.weight.shape == (32, 32)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"ratio": 0.0}, "0 is no share"),
        ({"ratio": 1.0}, "1 is no share"),
        ({"ratio": float("nan")}, "nan is no share"),
        ({"ratio": 0.6}, "more than half"),
        ({"ratio": 0.25}, "the multiple of 128 nearest to 0.75 of 64 is 0"),
        ({"ratio": 0.01, "multiple_of": 16}, "is 64"),
        ({"width": 40, "multiple_of": 16}, "40 is no multiple of 16"),
        ({"width": 64, "multiple_of": 16}, "64 is not below"),
        ({"width": 16, "multiple_of": 16}, "more than half"),
        ({}, "either a ratio or a size"),
        ({"ratio": 0.25, "width": 48}, "either a ratio or a size"),
    ],
)
def test_a_width_that_cannot_be_is_refused_before_anything_is_cut(options: dict[str, float], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        PruneWidth.model_validate(options).check(build_llama())


def test_a_check_leaves_the_width_to_the_next_step_that_this_one_will() -> None:
    with torch.device("meta"):
        empty = build_llama()
    PruneWidth(width=32, multiple_of=32).check(empty)

    with pytest.raises(ConfigError, match="32 is not below the model's 32"):
        PruneWidth(width=32, multiple_of=32).check(empty)


def test_a_model_with_other_parts_is_refused() -> None:
    model = build_llama()
    model.model.layers[1].mlp = torch.nn.Linear(32, 32)

    with pytest.raises(ConfigError, match="not those of Llama or Gemma"):
        PruneWidth(ratio=0.25, multiple_of=16).check(model)
