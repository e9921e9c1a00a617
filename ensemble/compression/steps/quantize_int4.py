"""Rounding the weights of linear layers to 4 bits, group by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch
from pydantic import Field
from torch import nn

from ensemble.checkpoints.int4_format import describe_int4
from ensemble.checkpoints.int4_linear import Int4Linear, choose_group_size, pack_codes, quantize_weight
from ensemble.compression.step import HEADS, LayerName, Step, StepContext, StepResult
from ensemble.compression.targets import find_float_layers, find_targets, measure_error
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class QuantizeInt4(Step):
    """Round the weights of linear layers to 4 bits, one scale for each group of input features.

    A group is the largest of 128, 64 and 32 that divides a layer's input features; a layer that none divides stays
    float.
    """

    is_last = True
    type: Literal["quantize_int4"] = "quantize_int4"
    ignore: tuple[LayerName, ...] = Field(
        default=HEADS, description="layers that stay float, by full name, last part, or re:pattern"
    )

    def check(self, empty: PreTrainedModel) -> None:
        """See that there is something to quantise."""
        self.find_group_sizes(empty)

    def find_group_sizes(self, model: PreTrainedModel) -> dict[str, int]:
        """Give the group size of every linear layer that is quantised.

        Raises:
            ConfigError: there is none, or one shares its weight with the embeddings.
        """
        group_size_by_layer = {}
        for name in find_targets(model, self.type, self.ignore):
            group_size = choose_group_size(cast("nn.Linear", model.get_submodule(name)).in_features)
            if group_size is not None:
                group_size_by_layer[name] = group_size
        if not group_size_by_layer:
            raise ConfigError(
                self.type, "no linear layer has a number of input features that 32 divides", "use quantize_int8"
            )
        return group_size_by_layer

    @torch.inference_mode()
    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Put 4-bit layers in place; tell their number and the worst layer's relative error (root mean square)."""
        group_size_by_layer = self.find_group_sizes(model)
        worst_name, worst_error = "", -1.0
        for done, (name, group_size) in enumerate(group_size_by_layer.items()):
            context.on_phase("quantise", done / len(group_size_by_layer))
            linear = cast("nn.Linear", model.get_submodule(name))
            quantized = _quantize(linear, group_size)
            error = measure_error(linear.weight, quantized.weight)
            if error > worst_error:
                worst_name, worst_error = name, error
            model.set_submodule(name, quantized)
        findings = {
            "num_layers": len(group_size_by_layer),
            "worst_layer": worst_name,
            "worst_relative_error": worst_error,
        }
        description = describe_int4(group_size_by_layer, ignore=find_float_layers(model))
        return StepResult(findings=findings, quantization=description)


def _quantize(linear: nn.Linear, group_size: int) -> Int4Linear:
    codes_OI, scale_OG = quantize_weight(linear.weight, group_size)
    has_bias = linear.bias is not None
    quantized = Int4Linear(linear.in_features, linear.out_features, group_size=group_size, bias=has_bias)
    quantized.weight_packed.data, quantized.weight_scale.data = pack_codes(codes_OI), scale_OG
    quantized.bias = linear.bias
    return quantized
