"""Rounding the weights of linear layers to 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ensemble.checkpoints.int8_linear import Int8Linear, quantize_weight
from ensemble.checkpoints.layer_names import is_ignored
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ensemble.compression.recipe import QuantizeInt4, QuantizeInt8


def find_targets(model: PreTrainedModel, step: QuantizeInt8 | QuantizeInt4) -> list[str]:
    """List the linear layers that the step quantises.

    Raises:
        ConfigError: there is none, or one shares its weight with the embeddings.
    """
    targets = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not is_ignored(name, step.ignore)
    ]
    if not targets:
        raise ConfigError(f"{step.type}.ignore", "no linear layer is left to quantise", "ignore fewer")
    tied = [name for name in targets if f"{name}.weight" in model.all_tied_weights_keys]
    if tied:
        raise ConfigError(
            f"{step.type}.ignore", f"{tied[0]} shares its weight with the embeddings", f"add {tied[0]} to ignore"
        )
    return targets


@torch.inference_mode()
def quantize_int8(model: PreTrainedModel, step: QuantizeInt8, *, on_phase: OnPhase = ignore_phase) -> dict[str, Any]:
    """Put 8-bit layers in place; give their number and the worst layer's relative error (root mean square)."""
    targets = find_targets(model, step)
    worst_name, worst_error = "", -1.0
    for done, name in enumerate(targets):
        on_phase("quantise", done / len(targets))
        linear = cast("nn.Linear", model.get_submodule(name))
        codes_OI, scale_O1 = quantize_weight(linear.weight)
        error = measure_error(linear.weight, codes_OI * scale_O1)
        if error > worst_error:
            worst_name, worst_error = name, error
        quantized = Int8Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
        quantized.weight.data, quantized.weight_scale.data = codes_OI, scale_O1
        quantized.bias = linear.bias
        model.set_submodule(name, quantized)
    return {"num_layers": len(targets), "worst_layer": worst_name, "worst_relative_error": worst_error}


def measure_error(weight_OI: torch.Tensor, rounded_OI: torch.Tensor) -> float:
    """Give the root mean square of the rounding as a share of the weight's own."""
    size = weight_OI.float().norm().item()
    return (rounded_OI - weight_OI.float()).norm().item() / size if size else 0.0
