"""Rounding the weights of linear layers to 8 bits, and their inputs as they come: W8A8, for vLLM and here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from ensemble.checkpoints.int8_linear import quantize_weight
from ensemble.checkpoints.w8a8_format import W8A8Format
from ensemble.checkpoints.w8a8_linear import W8A8Linear
from ensemble.compression.step import HEADS, LayerName, Step, StepContext, StepResult
from ensemble.compression.targets import find_float_layers, find_targets, measure_error, replace_layers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class QuantizeW8A8(Step):
    """Round weights to 8 bits with a scale an output channel, and inputs to 8 bits with a scale a token."""

    is_last = True
    type: Literal["quantize_w8a8"] = "quantize_w8a8"
    ignore: tuple[LayerName, ...] = Field(
        default=HEADS, description="layers that stay float, by full name, last part, or re:pattern"
    )

    def check(self, empty: PreTrainedModel) -> None:
        """See that there is something to quantise."""
        find_targets(empty, self.type, self.ignore)

    @torch.inference_mode()
    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Put layers in place that round their inputs, too; tell their number and the worst relative error."""
        targets = find_targets(model, self.type, self.ignore)
        findings = replace_layers(model, targets, _round_layer, on_phase=context.on_phase)
        form = W8A8Format(name="int-quantized", per_channel=True, ignore=find_float_layers(model))
        return StepResult(findings=findings, quantization=form.describe())


def _round_layer(_name: str, linear: nn.Linear) -> tuple[nn.Module, float]:
    codes_OI, scale_O1 = quantize_weight(linear.weight)
    rounded = W8A8Linear(
        linear.in_features, linear.out_features, dtype=codes_OI.dtype, per_channel=True, bias=linear.bias is not None
    )
    rounded.weight.data, rounded.weight_scale.data = codes_OI, scale_O1
    rounded.bias = linear.bias
    return rounded, measure_error(linear.weight, codes_OI * scale_O1)
