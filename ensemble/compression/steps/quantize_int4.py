"""Rounding the weights of linear layers to 4 bits, group by group: W4A16, for vLLM and here.

Axes: O output features, I input features, G groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch
from pydantic import Field
from torch import nn

from ensemble.checkpoints.int4_format import Int4Layers, describe_int4
from ensemble.checkpoints.int4_linear import Int4Linear, choose_group_size, pack_codes, quantize_weight
from ensemble.checkpoints.layer_names import is_ignored
from ensemble.compression.decoder_layers import find_decoder_layers
from ensemble.compression.gptq import quantize_by_gptq
from ensemble.compression.head import untie_head
from ensemble.compression.layer_walk import walk_layers
from ensemble.compression.optimal_brain import DAMPING, factorise_inverse
from ensemble.compression.step import HEADS, LayerName, Step, StepContext, StepResult
from ensemble.compression.steps.quantize_int8 import round_to_int8
from ensemble.compression.targets import find_float_layers, find_targets, measure_error, replace_layers
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel


class QuantizeInt4(Step):
    """Round the weights of linear layers to 4 bits, one scale for each group of input features.

    A layer whose input features the group size does not divide stays float. ``gptq`` rounds the decoder's layers in
    their order, each with the inputs that the rounded ones before it give; a layer outside of the decoder is rounded to
    the nearest by both methods.
    """

    is_last = True
    type: Literal["quantize_int4"] = "quantize_int4"
    method: Literal["rtn", "gptq"] = Field(
        default="rtn",
        description="round to the nearest, or so that later columns make up for earlier ones on the calibration text",
    )
    group_size: Literal["auto", 128, 64, 32] = Field(
        default="auto", description="input features that share a scale; auto is the largest that divides a layer"
    )
    damping: float = Field(
        default=DAMPING, gt=0.0, le=1.0, description="of GPTQ's mean diagonal, what is added to the diagonal"
    )
    ignore: tuple[LayerName, ...] = Field(
        default=HEADS, description="layers that stay float, by full name, last part, or re:pattern"
    )
    int8: tuple[LayerName, ...] = Field(
        default=(),
        description="layers that are rounded to the nearest of 8 bits instead, with a scale for each output channel",
    )
    quantize_head: bool = Field(
        default=False,
        description="round the layer that gives tokens to 8 bits, even if ignored; its weight is then no longer the "
        "embeddings', which stay float",
    )

    def check(self, empty: PreTrainedModel) -> None:
        """See that there is something to quantise, and decoder layers for GPTQ."""
        self._find(empty)
        if self.method == "gptq":
            find_decoder_layers(empty, self.type)

    def find_group_sizes(self, model: PreTrainedModel) -> dict[str, int]:
        """Give the group size of every linear layer that gets 4 bits.

        Raises:
            ConfigError: there is none, or one shares its weight with the embeddings.
        """
        group_size_by_layer = {}
        for name in find_targets(model, self.type, (*self.ignore, *self.int8)):
            in_features = cast("nn.Linear", model.get_submodule(name)).in_features
            group_size = choose_group_size(in_features) if self.group_size == "auto" else self.group_size
            if group_size is not None and in_features % group_size == 0:
                group_size_by_layer[name] = group_size
        if not group_size_by_layer:
            divisor = 32 if self.group_size == "auto" else self.group_size
            raise ConfigError(
                self.type,
                f"no linear layer has a number of input features that {divisor} divides",
                "use quantize_int8, or smaller groups",
            )
        return group_size_by_layer

    def estimate_passes(self, num_windows: int) -> float:
        """GPTQ reads each window twice, and works about as long on the weights."""
        return 4.0 * num_windows if self.method == "gptq" else 0.0

    def _find(self, model: PreTrainedModel) -> Int4Layers:
        """Tell which layers get 4 bits and which 8, the head among these, untied, if it is to be rounded."""
        heads = [untie_head(model, self.type)] if self.quantize_head else []
        group_size_by_layer = {name: size for name, size in self.find_group_sizes(model).items() if name not in heads}
        int8_layers = [name for name in find_targets(model, self.type, self.ignore) if is_ignored(name, self.int8)]
        if self.int8 and not int8_layers:
            raise ConfigError(
                f"{self.type}.int8", "no linear layer has one of these names", "name some, or leave it out"
            )
        return Int4Layers(
            group_size_by_layer=group_size_by_layer, int8_layers=tuple(dict.fromkeys([*int8_layers, *heads]))
        )

    @torch.no_grad()
    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Put rounded layers in place; tell their number and the worst layer's relative error (root mean square)."""
        layers = self._find(model)
        group_size_by_layer = layers.group_size_by_layer
        walked = self._walk(model, context, group_size_by_layer) if self.method == "gptq" else {}

        def round_layer(name: str, linear: nn.Linear) -> tuple[nn.Module, float]:
            if name in layers.int8_layers:
                return round_to_int8(linear)
            if name in walked:
                codes_OI, scale_OG, error = walked[name]
                return _fill(linear, codes_OI, scale_OG), error
            quantized = _fill(linear, *quantize_weight(linear.weight, group_size_by_layer[name]))
            return quantized, measure_error(linear.weight, quantized.weight)

        names = [*group_size_by_layer, *layers.int8_layers]
        findings = replace_layers(model, names, round_layer, on_phase=context.on_phase)
        description = describe_int4(layers, ignore=find_float_layers(model))
        return StepResult(findings=findings, quantization=description)

    def _walk(
        self, model: PreTrainedModel, context: StepContext, group_size_by_layer: Mapping[str, int]
    ) -> dict[str, tuple[Tensor, Tensor, float]]:
        """Give each decoder layer's codes, scales and relative errors; its weights become what the codes stand for."""
        found: dict[str, tuple[Tensor, Tensor, float]] = {}
        for layer in walk_layers(model, context.calibrate_WT, step=self.type, on_phase=context.on_phase):
            linears = layer.pick(list(group_size_by_layer))
            for measured in layer.measure_inputs(list(linears)):
                factor_II = factorise_inverse(measured.gram_II, self.damping)
                for name in measured.names:
                    weight_OI = linears[name].weight
                    codes_OI, scale_OG, rounded_OI = quantize_by_gptq(weight_OI, factor_II, group_size_by_layer[name])
                    found[name] = codes_OI, scale_OG, measure_error(weight_OI, rounded_OI)
                    weight_OI.copy_(rounded_OI)
        return found


def _fill(linear: nn.Linear, codes_OI: Tensor, scale_OG: Tensor) -> Int4Linear:
    group_size = linear.in_features // scale_OG.shape[1]
    has_bias = linear.bias is not None
    quantized = Int4Linear(linear.in_features, linear.out_features, group_size=group_size, bias=has_bias)
    quantized.weight_packed.data, quantized.weight_scale.data = pack_codes(codes_OI), scale_OG
    quantized.bias = linear.bias
    return quantized
