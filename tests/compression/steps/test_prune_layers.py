"""Which layers go, and what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ensemble.compression.steps.prune_layers import PruneLayers, measure_influences
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_gemma3, build_llama
from tests.compression.step_contexts import build_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from transformers import PreTrainedModel

WINDOWS_WT = torch.randint(4, 500, (3, 24), generator=torch.Generator().manual_seed(5))


def prune(model: PreTrainedModel, step: PruneLayers) -> dict[str, Any]:
    return step.take(model, build_context(calibrate_WT=WINDOWS_WT)).findings


def silence(model: PreTrainedModel, index: int) -> None:
    """Make a layer hand its input on unchanged."""
    layer = model.model.layers[index]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


def strengthen(model: PreTrainedModel, index: int) -> None:
    with torch.no_grad():
        model.model.layers[index].mlp.down_proj.weight.mul_(500.0)


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_a_layer_that_does_nothing_has_no_influence_and_goes_first(build: Callable[..., PreTrainedModel]) -> None:
    model = build(num_layers=5)
    silence(model, 2)

    found = prune(model, PruneLayers(num_layers=1))

    assert found["influences"][2] == pytest.approx(0.0, abs=1e-6)
    assert all(influence > 1e-4 for layer, influence in enumerate(found["influences"]) if layer != 2)
    assert found["dropped_layers"] == [2]


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_dropping_a_layer_that_does_nothing_changes_nothing(build: Callable[..., PreTrainedModel]) -> None:
    model = build(num_layers=5)
    silence(model, 2)
    with torch.inference_mode():
        before = model(WINDOWS_WT).logits

        prune(model, PruneLayers(num_layers=1))
        after = model(WINDOWS_WT).logits

    assert len(model.model.layers) == model.config.num_hidden_layers == 4
    assert torch.allclose(after, before, atol=1e-5)


def test_the_influence_is_one_minus_the_cosine_of_input_and_output() -> None:
    model = build_llama(num_layers=3)
    with torch.inference_mode():
        hidden = model.model(WINDOWS_WT, output_hidden_states=True).hidden_states
    # The last entry has been through the final norm, so only the first two layers can be compared.
    expected = [
        1.0 - torch.nn.functional.cosine_similarity(hidden[layer], hidden[layer + 1], dim=-1).mean().item()
        for layer in range(2)
    ]

    influences = measure_influences(model, WINDOWS_WT)

    assert influences[:2] == pytest.approx(expected, abs=1e-5)


def test_a_layer_with_a_strong_output_has_the_most_influence() -> None:
    model = build_llama(num_layers=4)
    strengthen(model, 1)

    influences = measure_influences(model, WINDOWS_WT)

    assert max(range(4), key=influences.__getitem__) == 1


def test_protected_layers_stay_however_little_they_do() -> None:
    model = build_llama(num_layers=4)
    silence(model, 0)
    silence(model, 3)

    found = prune(model, PruneLayers(num_layers=2))

    assert found["dropped_layers"] == [1, 2]


def test_the_earlier_of_two_equal_layers_goes() -> None:
    model = build_llama(num_layers=5)
    silence(model, 2)
    silence(model, 3)

    found = prune(model, PruneLayers(num_layers=1))

    assert found["dropped_layers"] == [2]


def test_gemmas_kinds_of_layer_stay_with_their_layers() -> None:
    model = build_gemma3(num_layers=4)
    silence(model, 1)

    prune(model, PruneLayers(num_layers=1))

    assert model.config.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_generating_with_a_cache_agrees_with_reading_everything_at_once(build: Callable[..., PreTrainedModel]) -> None:
    model = build(num_layers=4)
    prune(model, PruneLayers(num_layers=2))

    with torch.inference_mode():
        whole = model(WINDOWS_WT[:1]).logits[0, -1]
        first = model(WINDOWS_WT[:1, :-1], use_cache=True)
        second = model(WINDOWS_WT[:1, -1:], past_key_values=first.past_key_values).logits[0, -1]

    assert torch.allclose(whole, second, atol=1e-4)


@pytest.mark.parametrize(
    "step",
    [
        PruneLayers(num_layers=3),
        PruneLayers(num_layers=4, protect_first=0, protect_last=0),
        PruneLayers(num_layers=1, protect_first=9),
    ],
)
def test_a_step_that_would_leave_too_little_is_refused(step: PruneLayers) -> None:
    with pytest.raises(ConfigError, match="cannot be dropped"):
        step.check(build_llama(num_layers=4))


def test_a_check_leaves_as_many_layers_to_the_next_one_as_the_step_will() -> None:
    empty = build_llama(num_layers=4)
    PruneLayers(num_layers=2).check(empty)

    with pytest.raises(ConfigError, match="of 2, 0 are not protected"):
        PruneLayers(num_layers=1).check(empty)


def test_a_model_without_a_stack_of_layers_is_refused() -> None:
    model = build_llama(num_layers=4)
    model.config.num_hidden_layers = 5

    with pytest.raises(ConfigError, match="no plain stack"):
        PruneLayers(num_layers=1).check(model)
