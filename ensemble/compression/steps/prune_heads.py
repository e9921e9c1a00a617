"""Fewer attention heads, as many in each layer: a key-value head goes with the query heads that share it.

Axes: W windows, T tokens, G groups (key-value heads), I input features of the output projection, C those of one group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import nn

from ensemble.compression.activations import watch_inputs
from ensemble.compression.cut_linear import keep_inputs, keep_outputs
from ensemble.compression.decoder_parts import HEAD_NORMS, PROJECTIONS, DecoderParts, find_decoder_parts, read_head_dim
from ensemble.compression.step import MAX_WINDOWS, MAX_WINDOWS_DESCRIPTION, Step, StepContext, StepResult
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ensemble.checkpoints.progress import OnPhase


class PruneHeads(Step):
    """Drop the groups of attention heads that add least to the residual stream on the calibration text.

    A group is a key-value head with its query heads; its score is the norm of what the output projection makes of it.
    """

    type: Literal["prune_heads"] = "prune_heads"
    num_groups: int = Field(default=1, ge=1, le=1024, description="key-value heads that go, each with its query heads")
    max_windows: int = Field(default=MAX_WINDOWS, ge=1, description=MAX_WINDOWS_DESCRIPTION)

    def check(self, empty: PreTrainedModel) -> None:
        """See that the heads can be cut so."""
        layers = self._find_layers(empty)
        num_kept = empty.config.num_key_value_heads - self.num_groups
        keep_groups(empty, [torch.arange(num_kept) for _ in layers])

    def estimate_passes(self, num_windows: int) -> float:
        """Count a pass for the scores."""
        return float(min(num_windows, self.max_windows))

    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Drop groups, the earlier of equal ones stay; tell which stayed, and every group's score, layer by layer."""
        layers = self._find_layers(model)
        num_kept = model.config.num_key_value_heads - self.num_groups
        scores = _score(model, layers, context.calibrate_WT[: self.max_windows], context.on_phase)
        kept = [score_G.argsort(descending=True, stable=True)[:num_kept].sort().values for score_G in scores]
        keep_groups(model, kept)
        findings = {
            "num_key_value_heads": model.config.num_key_value_heads,
            "num_attention_heads": model.config.num_attention_heads,
            "kept_groups": [kept_G.tolist() for kept_G in kept],
            "scores": [score_G.tolist() for score_G in scores],
        }
        return StepResult(findings=findings)

    def _find_layers(self, model: PreTrainedModel) -> list[DecoderParts]:
        layers = find_decoder_parts(model, self.type)
        num_groups, head_dim = model.config.num_key_value_heads, read_head_dim(model)
        if any(_has_weights_of_all_heads(layer.attention, head_dim) for layer in layers):
            raise ConfigError(
                self.type, f"the heads of a {type(model).__name__} share weights beside projections", "leave it out"
            )
        if 2 * self.num_groups > num_groups:
            raise ConfigError(
                f"{self.type}.num_groups",
                f"{self.num_groups} of {num_groups} key-value heads cannot go: at least half must stay",
                "drop fewer, or leave this step out where there is one",
            )
        return layers


def _has_weights_of_all_heads(attention: nn.Module, head_dim: int) -> bool:
    """Say whether something beside the projections would have to be cut, too; norms of one head serve all alike."""
    others = {
        name: parameter for name, parameter in attention.named_parameters() if name.partition(".")[0] not in PROJECTIONS
    }
    return any(name not in HEAD_NORMS or parameter.shape != (head_dim,) for name, parameter in others.items())


def _score(model: PreTrainedModel, layers: list[DecoderParts], windows_WT: Tensor, on_phase: OnPhase) -> list[Tensor]:
    """Give each layer's ``score_G``: the root of the sum over tokens of the squared norm of what a group adds."""
    num_groups = model.config.num_key_value_heads
    outs = [layer.linear("o_proj") for layer in layers]
    squares = [torch.zeros(num_groups, dtype=torch.float64) for _ in outs]

    def add(index: int, input_TI: Tensor) -> None:
        parts = zip(input_TI.chunk(num_groups, dim=1), outs[index].weight.chunk(num_groups, dim=1), strict=True)
        added = [(input_TC @ weight_OC.T).double().square().sum() for input_TC, weight_OC in parts]
        squares[index] += torch.stack(added)

    watch_inputs(model, outs, windows_WT, add, on_phase=on_phase)
    return [square_G.sqrt() for square_G in squares]


def keep_groups(model: PreTrainedModel, kept: list[Tensor]) -> None:
    """Leave out every other key-value head of each layer with its query heads, in place; the config follows."""
    config, head_dim = model.config, read_head_dim(model)
    queries_per_group = config.num_attention_heads // config.num_key_value_heads
    for layer, kept_G in zip(find_decoder_parts(model, "prune_heads"), kept, strict=True):
        kept_keys = _spread(kept_G, head_dim)
        kept_queries = _spread(kept_G, head_dim * queries_per_group)
        keep_outputs(layer.linear("q_proj"), kept_queries)
        keep_outputs(layer.linear("k_proj"), kept_keys)
        keep_outputs(layer.linear("v_proj"), kept_keys)
        keep_inputs(layer.linear("o_proj"), kept_queries)
    # Where it was left to be the hidden width over the heads, it would be read wrongly now.
    config.head_dim = head_dim
    config.num_attention_heads = len(kept[0]) * queries_per_group
    config.num_key_value_heads = len(kept[0])


def _spread(kept_G: Tensor, width: int) -> Tensor:
    """Give the features of groups that are so wide each."""
    return (kept_G[:, None] * width + torch.arange(width)).flatten()
