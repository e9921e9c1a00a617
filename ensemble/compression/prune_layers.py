"""Dropping the decoder layers that do least, by block influence (Men et al. 2024, ShortGPT, arXiv:2403.03853).

Axes: T tokens, D hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ensemble.compression.recipe import PruneLayers

_LISTS_BY_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""The config's entries that say something of every layer."""


def find_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Give the decoder's layers.

    Raises:
        ConfigError: the model is built in a way that cannot be cut.
    """
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) != getattr(model.config, "num_hidden_layers", None):
        raise ConfigError(
            "prune_layers",
            f"a {type(model).__name__} has no plain stack of decoder layers",
            "prune a Llama- or Gemma3-like model",
        )
    if getattr(model.config, "num_kv_shared_layers", 0):
        raise ConfigError(
            "prune_layers", f"layers of a {type(model).__name__} share keys and values", "leave this step out"
        )
    return layers


def check_prune_layers(model: PreTrainedModel, step: PruneLayers, *, num_gone: int) -> None:
    """See that the step leaves a model; ``num_gone`` layers are dropped by earlier steps.

    Raises:
        ConfigError: too many layers are asked for, or the model cannot be cut.
    """
    num_layers = len(find_layers(model)) - num_gone
    num_free = num_layers - step.protect_first - step.protect_last
    if step.num_layers > num_free or step.num_layers >= num_layers:
        raise ConfigError(
            "prune_layers.num_layers",
            f"{step.num_layers} layers cannot be dropped: of {num_layers}, {max(0, num_free)} are not protected",
            "drop or protect fewer",
        )


def prune_layers(
    model: PreTrainedModel, step: PruneLayers, *, calibrate_WT: Tensor, on_phase: OnPhase = ignore_phase
) -> dict[str, Any]:
    """Drop layers in place, lowest influence first, earlier ones on a tie; give the influences and what was dropped.

    Layer numbers count from 0 in the model as it was before this step.
    """
    influences = measure_influences(model, calibrate_WT, on_phase=on_phase)
    free = range(step.protect_first, len(influences) - step.protect_last)
    dropped = sorted(sorted(free, key=lambda layer: influences[layer])[: step.num_layers])
    _keep_layers(model, [layer for layer in range(len(influences)) if layer not in dropped])
    return {"influences": influences, "dropped_layers": dropped}


@torch.inference_mode()
def measure_influences(model: PreTrainedModel, windows_WT: Tensor, *, on_phase: OnPhase = ignore_phase) -> list[float]:
    """Give each layer's influence: 1 minus the mean cosine similarity of its input and output hidden states."""
    layers = find_layers(model)
    similarity_sums = [0.0] * len(layers)

    def watch(index: int, layer: nn.Module) -> Any:
        def add(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before_TD = args[0] if args else kwargs["hidden_states"]
            after_TD = output[0] if isinstance(output, tuple) else output
            similarity = functional.cosine_similarity(before_TD.double(), after_TD.double(), dim=-1)
            similarity_sums[index] += similarity.sum().item()

        return layer.register_forward_hook(add, with_kwargs=True)

    hooks = [watch(index, layer) for index, layer in enumerate(layers)]
    try:
        for done, tokens_T in enumerate(windows_WT):
            on_phase("measure influence", done / len(windows_WT))
            model.model(tokens_T[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [1.0 - total / windows_WT.numel() for total in similarity_sums]


def _keep_layers(model: PreTrainedModel, kept: list[int]) -> None:
    layers = find_layers(model)
    model.model.layers = nn.ModuleList(layers[index] for index in kept)
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
