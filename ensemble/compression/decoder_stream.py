"""A decoder that is run layer by layer, window by window, so that what lies between its layers can be seen.

Axes: B a batch of one, W windows, T tokens, D hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ensemble.compression.decoder_parts import Part, find_decoder_parts

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


class DecoderStream:
    """The residual stream of every window at one place of a decoder; it moves on by one sublayer at a time."""

    def __init__(self, model: PreTrainedModel, windows_WT: Tensor, step: str) -> None:
        self.layers = find_decoder_parts(model, step)
        self._arguments = _read_arguments(model, windows_WT[0])
        self.stream_WTD = torch.stack([_embed(model, tokens_T) for tokens_T in windows_WT])

    @torch.inference_mode()
    def run(self, index: int, part: Part, *, inputs_WTI: Tensor | None = None) -> Tensor:
        """Give what a layer's attention or MLP makes of every window, before it goes to the stream: ``outputs_WTD``.

        ``inputs_WTI``, where given, is filled with what goes into the part's last projection.
        """
        last = self.layers[index].last(part)
        outputs_WTD = torch.empty_like(self.stream_WTD)
        seen: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda _linear, args: seen.append(args[0][0]))
        try:
            for window, stream_TD in enumerate(self.stream_WTD):
                outputs_WTD[window] = self._compute(index, part, stream_TD[None])[0]
                input_TI = seen.pop()
                if inputs_WTI is not None:
                    inputs_WTI[window] = input_TI
        finally:
            hook.remove()
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


class _Reached(Exception):  # noqa: N818 - no error: it ends a forward pass whose rest is not needed
    """The first layer was reached."""


@torch.inference_mode()
def _embed(model: PreTrainedModel, tokens_T: Tensor) -> Tensor:
    """Give what goes into the first layer, whatever a model does before it."""
    caught: list[Tensor] = []

    def catch(_layer: nn.Module, args: tuple[Any, ...]) -> None:
        caught.append(args[0][0])
        raise _Reached

    hook = model.model.layers[0].register_forward_pre_hook(catch)
    try:
        model.model(tokens_T[None], use_cache=False)
    except _Reached:
        pass
    finally:
        hook.remove()
    return caught[0].clone()


@torch.inference_mode()
def _read_arguments(model: PreTrainedModel, tokens_T: Tensor) -> list[dict[str, Any]]:
    """Give what each layer's attention is told beside the stream: masks and positions, the same for every window."""
    arguments: list[dict[str, Any]] = []

    def read(_layer: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments.append({name: value for name, value in kwargs.items() if name != "use_cache"})

    hooks = [layer.register_forward_pre_hook(read, with_kwargs=True) for layer in model.model.layers]
    try:
        model.model(tokens_T[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return arguments
