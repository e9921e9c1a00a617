"""Rounding the weights of linear layers to 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from ensemble.checkpoints.int8_format import describe_int8
from ensemble.checkpoints.int8_linear import Int8Linear, quantize_weight
from ensemble.compression.step import LayerName, Step, StepContext, StepResult
from ensemble.compression.targets import find_float_layers, find_targets, measure_error, replace_layers

if TYPE_CHECKING:
    from torch import nn
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
        findings = replace_layers(model, targets, _round_layer, on_phase=context.on_phase)
        return StepResult(findings=findings, quantization=describe_int8(ignore=find_float_layers(model)))


def _round_layer(_name: str, linear: nn.Linear) -> tuple[nn.Module, float]:
    codes_OI, scale_O1 = quantize_weight(linear.weight)
    rounded = Int8Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
    rounded.weight.data, rounded.weight_scale.data = codes_OI, scale_O1
    rounded.bias = linear.bias
    return rounded, measure_error(linear.weight, codes_OI * scale_O1)
