"""What a decoder layer that can be cut is made of, and how its parts add to the residual stream.

Axes: D hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from ensemble.compression.decoder_layers import find_decoder_layers
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_NORMS = ("input_layernorm", "post_attention_layernorm")
_SANDWICH_NORMS = (*_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Of attention."""
HEAD_NORMS = ("q_norm.weight", "k_norm.weight")
"""Attention's other weights: the same for every head, and as wide as one."""
_MLP = ("gate_proj", "up_proj", "down_proj")
Part = Literal["attention", "mlp"]
PARTS: tuple[Part, Part] = ("attention", "mlp")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderParts:
    """One decoder layer: ``stream + after_attention(attention(before_attention(stream)))``, then so with the MLP."""

    before_attention: nn.Module
    attention: nn.Module
    after_attention: nn.Module | None
    """A norm, as Gemma has it; None where the output is added as it is."""
    before_mlp: nn.Module
    mlp: nn.Module
    after_mlp: nn.Module | None

    def linear(self, name: str) -> nn.Linear:
        """Give a projection by its name in Llama."""
        return cast("nn.Linear", getattr(self.attention if name in PROJECTIONS else self.mlp, name))

    def last(self, part: Part) -> nn.Linear:
        """Give the projection that a part ends with."""
        return self.linear("o_proj" if part == "attention" else "down_proj")

    def norm_after(self, part: Part) -> nn.Module | None:
        """Give the norm of what a part adds, where there is one."""
        return self.after_attention if part == "attention" else self.after_mlp


def find_decoder_parts(model: PreTrainedModel, step: str) -> list[DecoderParts]:
    """Give the parts of every decoder layer.

    Raises:
        ConfigError: the model is not built as Llama or Gemma are.
    """
    layers = find_decoder_layers(model, step)
    parts = [_find_parts(layer) for layer in layers]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or not _describes(model, found):
        raise ConfigError(
            step, f"the layers of a {type(model).__name__} are not those of Llama or Gemma", "leave this step out"
        )
    return found


def _find_parts(layer: nn.Module) -> DecoderParts | None:
    """Give None for a layer with other parts, or one that scales what its parts add."""
    children = dict(layer.named_children())
    attention, mlp = children.pop("self_attn", None), children.pop("mlp", None)
    has_linears = all(
        isinstance(getattr(part, name, None), nn.Linear)
        for part, names in ((attention, PROJECTIONS), (mlp, _MLP))
        for name in names
    )
    is_plain = set(children) == set(_NORMS)
    is_known = (is_plain or set(children) == set(_SANDWICH_NORMS)) and not hasattr(layer, "residual_multiplier")
    if attention is None or mlp is None or not has_linears or not is_known:
        return None
    return DecoderParts(
        before_attention=children["input_layernorm"],
        attention=attention,
        after_attention=None if is_plain else children["post_attention_layernorm"],
        before_mlp=children["post_attention_layernorm" if is_plain else "pre_feedforward_layernorm"],
        mlp=mlp,
        after_mlp=None if is_plain else children["post_feedforward_layernorm"],
    )


def _describes(model: PreTrainedModel, parts: list[DecoderParts]) -> bool:
    """Say whether the config's sizes are those of every layer."""
    config = model.config
    head_dim = read_head_dim(model)
    sizes = {
        "q_proj": config.num_attention_heads * head_dim,
        "k_proj": config.num_key_value_heads * head_dim,
        "v_proj": config.num_key_value_heads * head_dim,
        "gate_proj": config.intermediate_size,
        "up_proj": config.intermediate_size,
        "down_proj": config.hidden_size,
        "o_proj": config.hidden_size,
    }
    return all(part.linear(name).out_features == size for part in parts for name, size in sizes.items())


def read_head_dim(model: PreTrainedModel) -> int:
    """Give the width of an attention head."""
    config = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


@torch.inference_mode()
def read_gain(norm: nn.Module, width: int) -> Tensor:
    """Give what a norm multiplies each normalised channel with: ``gain_D``; Gemma keeps it less 1."""
    gain_D: Tensor = norm(torch.ones(width))
    return gain_D


def read_epsilon(norm: nn.Module) -> float:
    """Give what a norm adds to the mean square."""
    options: Any = vars(norm)
    return float(options.get("variance_epsilon", options.get("eps", 0.0)))
