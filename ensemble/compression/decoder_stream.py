"""A decoder that is run layer by layer, window by window, so that what lies between its layers can be seen.

Axes: B a batch of one, W windows, T tokens, D hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ensemble.compression.decoder_parts import Part, find_decoder_parts
from ensemble.compression.layer_walk import record_calls, take_inputs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class DecoderStream:
    """The residual stream of every window at one place of a decoder; it moves on by one sublayer at a time."""

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, windows_WT: Tensor, step: str) -> None:
        self.layers = find_decoder_parts(model, step)
        self._arguments = [arguments for _, arguments in record_calls(model, model.model.layers, windows_WT[0])]
        self.stream_WTD = torch.cat([take_inputs(model, model.model.layers[0], tokens_T) for tokens_T in windows_WT])

    @torch.inference_mode()
    def run(self, index: int, part: Part, *, inputs_WTI: Tensor | None = None) -> Tensor:
        """Give what a layer's attention or MLP makes of every window, before it goes to the stream: ``outputs_WTD``.

        ``inputs_WTI``, where given, is filled with what goes into the part's last projection.
        """
        last = self.layers[index].last(part)
        outputs_WTD = torch.empty_like(self.stream_WTD)
        seen: list[Tensor] = []
        with last.register_forward_pre_hook(lambda _linear, args: seen.append(args[0][0])):
            for window, stream_TD in enumerate(self.stream_WTD):
                outputs_WTD[window] = self._compute(index, part, stream_TD[None])[0]
                input_TI = seen.pop()
                if inputs_WTI is not None:
                    inputs_WTI[window] = input_TI
        return outputs_WTD

    @torch.inference_mode()
    def add(self, index: int, part: Part, outputs_WTD: Tensor) -> None:
        """Move the stream on by what a layer's attention or MLP made of it."""
        norm = self.layers[index].norm_after(part)
        for window, output_TD in enumerate(outputs_WTD):
            self.stream_WTD[window] += output_TD if norm is None else norm(output_TD)

    def _compute(self, index: int, part: Part, stream_BTD: Tensor) -> Tensor:
        layer = self.layers[index]
        output_BTD: Tensor
        if part == "attention":
            output_BTD = layer.attention(layer.before_attention(stream_BTD), **self._arguments[index])[0]
        else:
            output_BTD = layer.mlp(layer.before_mlp(stream_BTD))
        return output_BTD
