"""A decoder's layers: finding them, and leaving some of them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

_LISTS_BY_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""The config's entries that say something of every layer."""


def has_decoder_layers(model: PreTrainedModel) -> bool:
    """Say whether the model has a plain stack of decoder layers."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    return isinstance(layers, nn.ModuleList) and len(layers) == getattr(model.config, "num_hidden_layers", None)


def find_decoder_layers(model: PreTrainedModel, step: str) -> nn.ModuleList:
    """Give the decoder's layers, for a step that cuts them.

    Raises:
        ConfigError: the model is built in a way that cannot be cut.
    """
    if not has_decoder_layers(model):
        raise ConfigError(
            step,
            f"a {type(model).__name__} has no plain stack of decoder layers",
            "prune a Llama- or Gemma3-like model",
        )
    if getattr(model.config, "num_kv_shared_layers", 0):
        raise ConfigError(step, f"layers of a {type(model).__name__} share keys and values", "leave this step out")
    layers: nn.ModuleList = model.model.layers
    return layers


def keep_decoder_layers(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Leave out every other layer, in place; the config follows."""
    model.model.layers = nn.ModuleList(model.model.layers[index] for index in kept)
    # Attention finds its place in the key-value cache by this number.
    for index, layer in enumerate(model.model.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    for name in _LISTS_BY_LAYER:
        entries = getattr(model.config, name, None)
        if entries is not None:
            setattr(model.config, name, [entries[index] for index in kept])
    model.config.num_hidden_layers = len(kept)
