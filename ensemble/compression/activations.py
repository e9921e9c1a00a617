"""What goes into a model's layers while it reads text.

Axes: W windows, T tokens, I input features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from ensemble.checkpoints.progress import OnPhase


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

    def watch(index: int, layer: nn.Module) -> Any:
        def hand_on(_layer: nn.Module, args: tuple[Any, ...]) -> None:
            observe(index, args[0].flatten(end_dim=-2))

        return layer.register_forward_pre_hook(hand_on)

    hooks = [watch(index, layer) for index, layer in enumerate(layers)]
    try:
        for done, tokens_T in enumerate(windows_WT):
            on_phase("measure activations", done / len(windows_WT))
            model.model(tokens_T[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
