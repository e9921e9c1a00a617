"""Rounding the weights of linear layers to 4 bits, group by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ensemble.checkpoints.int4_linear import Int4Linear, choose_group_size, pack_codes, quantize_weight
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.compression.quantize_int8 import find_targets, measure_error
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ensemble.compression.recipe import QuantizeInt4


def find_int4_targets(model: PreTrainedModel, step: QuantizeInt4) -> dict[str, int]:
    """Give the group size of every linear layer that the step quantises.

    Raises:
        ConfigError: there is none, or one shares its weight with the embeddings.
    """
    group_size_by_layer = {}
    for name in find_targets(model, step):
        group_size = choose_group_size(cast("nn.Linear", model.get_submodule(name)).in_features)
        if group_size is not None:
            group_size_by_layer[name] = group_size
    if not group_size_by_layer:
        raise ConfigError(
            "quantize_int4", "no linear layer has a number of input features that 32 divides", "use quantize_int8"
        )
    return group_size_by_layer


@torch.inference_mode()
def quantize_int4(model: PreTrainedModel, step: QuantizeInt4, *, on_phase: OnPhase = ignore_phase) -> dict[str, Any]:
    """Put 4-bit layers in place; give their number and the worst layer's relative error (root mean square)."""
    group_size_by_layer = find_int4_targets(model, step)
    worst_name, worst_error = "", -1.0
    for done, (name, group_size) in enumerate(group_size_by_layer.items()):
        on_phase("quantise", done / len(group_size_by_layer))
        linear = cast("nn.Linear", model.get_submodule(name))
        quantized = _quantize(linear, group_size)
        error = measure_error(linear.weight, quantized.weight)
        if error > worst_error:
            worst_name, worst_error = name, error
        model.set_submodule(name, quantized)
    return {"num_layers": len(group_size_by_layer), "worst_layer": worst_name, "worst_relative_error": worst_error}


def _quantize(linear: nn.Linear, group_size: int) -> Int4Linear:
    codes_OI, scale_OG = quantize_weight(linear.weight, group_size)
    has_bias = linear.bias is not None
    quantized = Int4Linear(linear.in_features, linear.out_features, group_size=group_size, bias=has_bias)
    quantized.weight_packed.data, quantized.weight_scale.data = pack_codes(codes_OI), scale_OG
    quantized.bias = linear.bias
    return quantized
