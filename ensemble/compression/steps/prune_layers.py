"""Dropping the decoder layers that do least, by block influence (Men et al. 2024, ShortGPT, arXiv:2403.03853).

Axes: T tokens, D hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.compression.activations import read_windows
from ensemble.compression.decoder_layers import find_decoder_layers, keep_decoder_layers
from ensemble.compression.step import MAX_WINDOWS, MAX_WINDOWS_DESCRIPTION, Step, StepContext, StepResult
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel


class PruneLayers(Step):
    """Drop the decoder layers that change their input least on the calibration text."""

    type: Literal["prune_layers"] = "prune_layers"
    num_layers: int = Field(ge=1, le=1024, description="how many to drop")
    protect_first: int = Field(default=1, ge=0, description="layers at the start that stay")
    protect_last: int = Field(default=1, ge=0, description="layers at the end that stay")
    max_windows: int = Field(default=MAX_WINDOWS, ge=1, description=MAX_WINDOWS_DESCRIPTION)

    def check(self, empty: PreTrainedModel) -> None:
        """See that the step leaves a model."""
        num_layers = len(find_decoder_layers(empty, self.type))
        num_free = num_layers - self.protect_first - self.protect_last
        if self.num_layers > num_free or self.num_layers >= num_layers:
            raise ConfigError(
                f"{self.type}.num_layers",
                f"{self.num_layers} layers cannot be dropped: of {num_layers}, {max(0, num_free)} are not protected",
                "drop or protect fewer",
            )
        keep_decoder_layers(empty, list(range(num_layers - self.num_layers)))

    def estimate_passes(self, num_windows: int) -> float:
        """Count a pass for the influences."""
        return float(min(num_windows, self.max_windows))

    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Drop layers, lowest influence first, earlier ones on a tie; tell the influences and what was dropped.

        Layer numbers count from 0 in the model as it was before this step.
        """
        influences = measure_influences(model, context.calibrate_WT[: self.max_windows], on_phase=context.on_phase)
        free = range(self.protect_first, len(influences) - self.protect_last)
        dropped = sorted(sorted(free, key=lambda layer: influences[layer])[: self.num_layers])
        kept = [layer for layer in range(len(influences)) if layer not in dropped]
        keep_decoder_layers(model, kept)
        return StepResult(findings={"influences": influences, "dropped_layers": dropped, "kept_layers": kept})


@torch.inference_mode()
def measure_influences(model: PreTrainedModel, windows_WT: Tensor, *, on_phase: OnPhase = ignore_phase) -> list[float]:
    """Give each layer's influence: 1 minus the mean cosine similarity of its input and output hidden states."""
    layers = find_decoder_layers(model, "prune_layers")
    similarity_sums = [0.0] * len(layers)

    def watch(index: int, layer: nn.Module) -> RemovableHandle:
        def add(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before_TD = args[0] if args else kwargs["hidden_states"]
            after_TD = output[0] if isinstance(output, tuple) else output
            similarity = functional.cosine_similarity(before_TD.double(), after_TD.double(), dim=-1)
            similarity_sums[index] += similarity.sum().item()

        return layer.register_forward_hook(add, with_kwargs=True)

    hooks = [watch(index, layer) for index, layer in enumerate(layers)]
    read_windows(model, windows_WT, hooks, phase="measure influence", on_phase=on_phase)
    return [1.0 - total / windows_WT.numel() for total in similarity_sums]
