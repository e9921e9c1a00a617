"""Rounding the weights of linear layers to 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from ensemble.checkpoints.int8_format import describe_int8
from ensemble.checkpoints.int8_linear import Int8Linear, quantize_weight
from ensemble.compression.head import untie_head
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
    quantize_head: bool = Field(
        default=False,
        description="round the layer that gives tokens, too, even if ignored; its weight is then no longer the "
        "embeddings', which stay float",
    )

    def check(self, empty: PreTrainedModel) -> None:
        """See that there is something to quantise, and a head if it is to be."""
        self._find(empty)

    def _find(self, model: PreTrainedModel) -> tuple[list[str], tuple[str, ...]]:
        """Give the layers to round, and which of them is the head, untied."""
        heads = (untie_head(model, self.type),) if self.quantize_head else ()
        return list(dict.fromkeys([*find_targets(model, self.type, self.ignore), *heads])), heads

    @torch.inference_mode()
    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Put 8-bit layers in place; tell their number and the worst layer's relative error (root mean square)."""
        targets, heads = self._find(model)
        findings = replace_layers(
            model, targets, lambda _name, linear: round_to_int8(linear), on_phase=context.on_phase
        )
        return StepResult(findings=findings, quantization=describe_int8(ignore=find_float_layers(model), heads=heads))


def _round_layer(_name: str, linear: nn.Linear) -> tuple[nn.Module, float]:
    return round_to_int8(linear)


def round_to_int8(linear: nn.Linear) -> tuple[nn.Module, float]:
    """Give the rounded layer, and the relative error of its weight."""
    codes_OI, scale_O1 = quantize_weight(linear.weight)
    rounded = Int8Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
    rounded.weight.data, rounded.weight_scale.data = codes_OI, scale_O1
    rounded.bias = linear.bias
    return rounded, measure_error(linear.weight, codes_OI * scale_O1)
