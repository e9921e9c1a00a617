"""What goes into a model's layers while it reads text.

Axes: W windows, T tokens, I input features.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from ensemble.checkpoints.progress import OnPhase, ignore_phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel


@torch.inference_mode()
def watch_inputs(
    model: PreTrainedModel,
    layers: Sequence[nn.Module],
    windows_WT: Tensor,
    observe: Callable[[int, Tensor], None],
    *,
    on_phase: OnPhase,
) -> None:
    """Read the windows in their order, and hand each layer's input on: the layer's index, and ``input_TI``."""

    def watch(index: int, layer: nn.Module) -> RemovableHandle:
        def hand_on(_layer: nn.Module, args: tuple[Any, ...]) -> None:
            observe(index, args[0].flatten(end_dim=-2))

        return layer.register_forward_pre_hook(hand_on)

    hooks = [watch(index, layer) for index, layer in enumerate(layers)]
    read_windows(model, windows_WT, hooks, phase="measure activations", on_phase=on_phase)


def read_windows(
    model: PreTrainedModel,
    windows_WT: Tensor,
    hooks: Iterable[RemovableHandle],
    *,
    phase: str = "",
    on_phase: OnPhase = ignore_phase,
) -> None:
    """Read the windows in their order with hooks in place, which go afterwards, however that ends."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        for done, tokens_T in enumerate(windows_WT):
            on_phase(phase, done / len(windows_WT))
            model.model(tokens_T[None], use_cache=False)
