"""Going through a decoder from its first layer to its last, each fed with what the changed layers before it give.

Axes: B a batch of one, W windows, T tokens, R rows (tokens), D hidden width, I input features.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from ensemble.compression.activations import read_windows
from ensemble.compression.decoder_layers import find_decoder_layers
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

    from ensemble.checkpoints.progress import OnPhase

_PREFIX = "model.layers"


class _InputsTakenError(Exception):
    """Ends a forward pass once the first layer's input is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredInput:
    """What one or more linear layers get."""

    names: set[str]
    """Of the layers that get it, in full."""
    gram_II: Tensor
    """The sum over all tokens of the outer product of the input with itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkedLayer:
    """A decoder layer, and what the layers before it give for every window."""

    name: str
    module: nn.Module
    hidden_by_window: tuple[Tensor, ...]
    """``hidden_BTD`` each."""
    others: tuple[tuple[Any, ...], dict[str, Any]]
    """What the layer is called with beside the hidden states; it depends on positions alone."""

    @torch.no_grad()
    def run(self) -> tuple[Tensor, ...]:
        """Give the layer's output for every window."""
        args, kwargs = self.others
        outputs = (self.module(hidden_BTD, *args, **kwargs) for hidden_BTD in self.hidden_by_window)
        return tuple(output[0] if isinstance(output, tuple) else output for output in outputs)

    def pick(self, names: Sequence[str]) -> dict[str, nn.Linear]:
        """Give those of the linear layers, by their full names, that are inside this one."""
        inside = {f"{self.name}.{name}": layer for name, layer in self.module.named_modules()}
        return {name: layer for name in names if isinstance(layer := inside.get(name), nn.Linear)}

    @torch.no_grad()
    def measure_inputs(self, names: Sequence[str]) -> list[MeasuredInput]:
        """Measure what goes into the linear layers on the whole text.

        Raises:
            ConfigError: an input is not finite.
        """
        measured: dict[str, MeasuredInput] = {}
        last: list[Any] = [None, ""]

        def watch(name: str, layer: nn.Linear) -> RemovableHandle:
            def add(_layer: nn.Module, args: tuple[Any, ...]) -> None:
                if args[0] is last[0]:
                    # Query, key and value, say: who shares an input with one window does so with every one.
                    measured[last[1]].names.add(name)
                    return
                last[:] = args[0], name
                rows_RI = args[0].reshape(-1, layer.in_features).float()
                if name not in measured:
                    gram_II = rows_RI.new_zeros(layer.in_features, layer.in_features)
                    measured[name] = MeasuredInput(names={name}, gram_II=gram_II)
                measured[name].gram_II.addmm_(rows_RI.T, rows_RI)

            return layer.register_forward_pre_hook(add)

        with ExitStack() as hooks:
            for name, layer in self.pick(names).items():
                hooks.enter_context(watch(name, layer))
            self.run()
        for name, one in measured.items():
            if not torch.isfinite(one.gram_II).all():
                raise ConfigError(
                    name, "its inputs on the calibration text are not finite", "give a sound checkpoint, or other text"
                )
        return list(measured.values())


@torch.no_grad()
def walk_layers(model: PreTrainedModel, windows_WT: Tensor, *, step: str, on_phase: OnPhase) -> Iterator[WalkedLayer]:
    """Give the decoder's layers in order; what the caller changes in one counts for the inputs of the next.

    Raises:
        ConfigError: the model has no plain stack of decoder layers.
    """
    layers = find_decoder_layers(model, step)
    others_by_layer = record_calls(model, layers, windows_WT[0])
    hidden_by_window = tuple(take_inputs(model, layers[0], tokens_T) for tokens_T in windows_WT)
    for index, (layer, others) in enumerate(zip(layers, others_by_layer, strict=True)):
        on_phase(f"walk {step}", index / len(layers))
        walked = WalkedLayer(name=f"{_PREFIX}.{index}", module=layer, hidden_by_window=hidden_by_window, others=others)
        yield walked
        hidden_by_window = walked.run()


def record_calls(
    model: PreTrainedModel, layers: nn.ModuleList, tokens_T: Tensor
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Give what each layer is called with beside its hidden states."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}))

    hooks = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    read_windows(model, tokens_T[None], hooks)
    return calls


def take_inputs(model: PreTrainedModel, first: nn.Module, tokens_T: Tensor) -> Tensor:
    """Give what the first layer gets for a window."""
    taken: list[Tensor] = []

    def take(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
        taken.append(args[0] if args else kwargs["hidden_states"])
        raise _InputsTakenError

    with suppress(_InputsTakenError):
        read_windows(model, tokens_T[None], [first.register_forward_pre_hook(take, with_kwargs=True)])
    return taken[0]
