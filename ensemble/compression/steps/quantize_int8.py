"""Rounding the weights of linear layers to 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch
from pydantic import Field
from torch import nn

from ensemble.checkpoints.int8_format import describe_int8
from ensemble.checkpoints.int8_linear import Int8Linear, quantize_weight
from ensemble.compression.step import LayerName, Step, StepContext, StepResult
from ensemble.compression.targets import find_float_layers, find_targets, measure_error

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class QuantizeInt8(Step):
    """Round the weights of linear layers to 8 bits, one scale for each output channel; activations stay float."""

    is_last = True
    type: Literal["quantize_int8"] = "quantize_int8"
    ignore: tuple[LayerName, ...] = Field(
        default=("lm_head",), description="layers that stay float, by full name, last part, or re:pattern"
    )

    def check(self, empty: PreTrainedModel) -> None:
        """See that there is something to quantise."""
        find_targets(empty, self.type, self.ignore)

    @torch.inference_mode()
    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Put 8-bit layers in place; tell their number and the worst layer's relative error (root mean square)."""
        targets = find_targets(model, self.type, self.ignore)
        worst_name, worst_error = "", -1.0
        for done, name in enumerate(targets):
            context.on_phase("quantise", done / len(targets))
            linear = cast("nn.Linear", model.get_submodule(name))
            codes_OI, scale_O1 = quantize_weight(linear.weight)
            error = measure_error(linear.weight, codes_OI * scale_O1)
            if error > worst_error:
                worst_name, worst_error = name, error
            quantized = Int8Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
            quantized.weight.data, quantized.weight_scale.data = codes_OI, scale_O1
            quantized.bias = linear.bias
            model.set_submodule(name, quantized)
        findings = {"num_layers": len(targets), "worst_layer": worst_name, "worst_relative_error": worst_error}
        return StepResult(findings=findings, quantization=describe_int8(ignore=find_float_layers(model)))
