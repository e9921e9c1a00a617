"""Rounding the weights of linear layers to 8-bit floats, and their inputs as they come: FP8, for vLLM on a GPU."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from ensemble.checkpoints.w8a8_format import W8A8Format
from ensemble.checkpoints.w8a8_linear import W8A8Linear, quantize_float8
from ensemble.compression.step import HEADS, LayerName, Step, StepContext, StepResult
from ensemble.compression.targets import find_float_layers, find_targets, measure_error, replace_layers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class QuantizeFp8(Step):
    """Round weights to float8 (e4m3fn), and inputs to float8 with a scale a token.

    Loaded here, its products are made of floats, so nothing is gained in time: it is for GPUs that multiply float8.
    """

    is_last = True
    type: Literal["quantize_fp8"] = "quantize_fp8"
    strategy: Literal["channel", "tensor"] = Field(
        default="channel", description="a scale for each output channel, or one for a layer"
    )
    ignore: tuple[LayerName, ...] = Field(
        default=HEADS, description="layers that stay float, by full name, last part, or re:pattern"
    )

    def check(self, empty: PreTrainedModel) -> None:
        """See that there is something to quantise."""
        find_targets(empty, self.type, self.ignore)

    @torch.inference_mode()
    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Put layers in place that round their inputs, too; tell their number and the worst relative error."""
        per_channel = self.strategy == "channel"
        targets = find_targets(model, self.type, self.ignore)
        round_layer = partial(_round_layer, per_channel=per_channel)
        findings = replace_layers(model, targets, round_layer, on_phase=context.on_phase)
        form = W8A8Format(name="float-quantized", per_channel=per_channel, ignore=find_float_layers(model))
        return StepResult(findings=findings, quantization=form.describe())


def _round_layer(_name: str, linear: nn.Linear, *, per_channel: bool) -> tuple[nn.Module, float]:
    codes_OI, scale = quantize_float8(linear.weight, per_channel=per_channel)
    rounded = W8A8Linear(
        linear.in_features,
        linear.out_features,
        dtype=codes_OI.dtype,
        per_channel=per_channel,
        bias=linear.bias is not None,
    )
    rounded.weight.data, rounded.weight_scale.data = codes_OI, scale
    rounded.bias = linear.bias
    return rounded, measure_error(linear.weight, codes_OI.float() * scale)
