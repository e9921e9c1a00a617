"""Which attention heads stay, and what is left of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ensemble.compression.steps.prune_heads import PruneHeads
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_llama
from tests.compression.step_contexts import build_context, build_windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

HEAD_DIM, NUM_GROUPS = 8, 4
WINDOWS_WT = build_windows()
_SIZES: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2 * NUM_GROUPS,
    "num_key_value_heads": NUM_GROUPS,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


def build_grouped(model_class: Any, config: Any) -> PreTrainedModel:
    torch.manual_seed(3)
    model: PreTrainedModel = model_class(config)
    return model


def build_grouped_llama() -> PreTrainedModel:
    return build_grouped(LlamaForCausalLM, LlamaConfig(**_SIZES, head_dim=HEAD_DIM))


def build_narrow_llama() -> PreTrainedModel:
    """Its heads are as wide as the hidden width leaves them, and the config does not say so."""
    return build_grouped(LlamaForCausalLM, LlamaConfig(**_SIZES))


def build_grouped_gemma() -> PreTrainedModel:
    return build_grouped(
        Gemma3ForCausalLM,
        Gemma3TextConfig(**_SIZES, head_dim=HEAD_DIM, query_pre_attn_scalar=8, sliding_window=8),
    )


def build_grouped_qwen() -> PreTrainedModel:
    """Its queries, keys and values have biases."""
    return build_grouped(Qwen2ForCausalLM, Qwen2Config(**_SIZES))


BUILDERS = (build_grouped_llama, build_narrow_llama, build_grouped_gemma, build_grouped_qwen)


def silence(model: PreTrainedModel, layer: int, group: int) -> None:
    """Make a group of heads that adds nothing."""
    out = model.model.layers[layer].self_attn.o_proj
    width = out.in_features // NUM_GROUPS
    with torch.no_grad():
        out.weight[:, group * width : (group + 1) * width] *= 1e-6


@pytest.mark.parametrize("build", BUILDERS)
def test_groups_that_add_nothing_go_and_nothing_changes(build: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    model = build()
    for layer, group in ((0, 1), (0, 2), (1, 0), (1, 3)):
        silence(model, layer, group)
    with torch.inference_mode():
        before = model(WINDOWS_WT).logits

    result = PruneHeads(num_groups=2).take(model, build_context(calibrate_WT=WINDOWS_WT))

    assert result.findings["kept_groups"] == [[0, 3], [1, 2]]
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (loaded.config.num_attention_heads, loaded.config.num_key_value_heads) == (4, 2)
    for after in (model, loaded):
        with torch.inference_mode():
            assert torch.allclose(after(WINDOWS_WT).logits, before, atol=1e-4)


def test_a_group_scores_by_the_norm_of_what_it_adds() -> None:
    model = build_grouped_llama()
    out = model.model.layers[0].self_attn.o_proj
    inputs: list[torch.Tensor] = []
    out.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(end_dim=1)))
    with torch.inference_mode():
        model(WINDOWS_WT)
    width = out.in_features // NUM_GROUPS
    expected = []
    for group in range(NUM_GROUPS):
        alone = torch.zeros_like(inputs[0])
        alone[:, group * width : (group + 1) * width] = inputs[0][:, group * width : (group + 1) * width]
        expected.append(out(alone).norm().item())

    result = PruneHeads().take(model, build_context(calibrate_WT=WINDOWS_WT))

    assert result.findings["scores"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("step", "build", "problem"),
    [
        (PruneHeads(num_groups=3), build_grouped_llama, "3 of 4 key-value heads cannot go"),
        (PruneHeads(num_groups=2), build_llama, "2 of 2 key-value heads cannot go"),
    ],
)
def test_what_would_leave_too_little_is_refused(
    step: PruneHeads, build: Callable[[], PreTrainedModel], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        step.check(build())


def test_heads_with_weights_that_are_not_cut_are_refused() -> None:
    model = build_grouped_llama()
    model.model.layers[0].self_attn.sinks = torch.nn.Parameter(torch.zeros(2 * NUM_GROUPS))

    with pytest.raises(ConfigError, match="share weights beside projections"):
        PruneHeads().check(model)
