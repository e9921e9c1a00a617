"""Fewer intermediate channels in every gated MLP, as many in each layer.

Axes: W windows, T tokens, I intermediate channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from ensemble.compression.activations import watch_inputs
from ensemble.compression.cut_linear import keep_inputs, keep_outputs
from ensemble.compression.cut_size import choose_size
from ensemble.compression.decoder_parts import DecoderParts, find_decoder_parts
from ensemble.compression.step import MAX_WINDOWS, MAX_WINDOWS_DESCRIPTION, Step, StepContext, StepResult

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class PruneWidth(Step):
    """Drop the intermediate channels of every MLP that add least to its output on the calibration text.

    ``activation`` scores a channel by the norm of its activations times the norm of its column in the down projection
    (the norm of what it adds; Sun et al. 2023, arXiv:2306.11695, score single weights so); ``magnitude`` by the
    largest absolute weight that belongs to it, which needs no text and harms far more.
    """

    type: Literal["prune_width"] = "prune_width"
    ratio: float | None = Field(default=None, description="share of the channels that goes, up to 0.5")
    width: int | None = Field(default=None, ge=1, description="channels that stay, in place of a ratio")
    multiple_of: int = Field(default=128, ge=1, description="what the width that stays is a multiple of")
    score: Literal["activation", "magnitude"] = "activation"
    max_windows: int = Field(default=MAX_WINDOWS, ge=1, description=MAX_WINDOWS_DESCRIPTION)

    def check(self, empty: PreTrainedModel) -> None:
        """See that the width can be cut so."""
        width = self._choose_width(empty)
        keep_channels(empty, [torch.arange(width) for _ in find_decoder_parts(empty, self.type)])

    def estimate_passes(self, num_windows: int) -> float:
        """Count a pass for the scores."""
        return float(min(num_windows, self.max_windows)) if self.score == "activation" else 1.0

    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Drop channels; tell the widths and, for each layer, the share of the scores' squares that stays."""
        layers = find_decoder_parts(model, self.type)
        width_before, width = model.config.intermediate_size, self._choose_width(model)
        scores = score_by_magnitude(layers) if self.score == "magnitude" else self._score_by_activation(model, context)
        # A stable sort, so that of equal channels the earlier ones stay.
        kept = [score_I.argsort(descending=True, stable=True)[:width].sort().values for score_I in scores]
        keep_channels(model, kept)
        kept_shares = [_share(score_I, kept_I) for score_I, kept_I in zip(scores, kept, strict=True)]
        findings = {"width_before": width_before, "width": width, "score": self.score, "kept_shares": kept_shares}
        return StepResult(findings=findings)

    def _choose_width(self, model: PreTrainedModel) -> int:
        find_decoder_parts(model, self.type)
        size = model.config.intermediate_size
        return choose_size(self.type, size, ratio=self.ratio, target=self.width, multiple_of=self.multiple_of)

    def _score_by_activation(self, model: PreTrainedModel, context: StepContext) -> list[Tensor]:
        downs = [layer.linear("down_proj") for layer in find_decoder_parts(model, self.type)]
        squares = [torch.zeros(down.in_features, dtype=torch.float64) for down in downs]

        def add(index: int, input_TI: Tensor) -> None:
            squares[index] += input_TI.double().square().sum(dim=0)

        watch_inputs(model, downs, context.calibrate_WT[: self.max_windows], add, on_phase=context.on_phase)
        return [
            square_I.sqrt() * down.weight.detach().double().norm(dim=0)
            for square_I, down in zip(squares, downs, strict=True)
        ]


def score_by_magnitude(layers: list[DecoderParts]) -> list[Tensor]:
    """Give each channel's largest absolute weight, in its rows of gate and up and its column of down."""
    return [
        torch.stack(
            [
                layer.linear("gate_proj").weight.detach().abs().amax(dim=1),
                layer.linear("up_proj").weight.detach().abs().amax(dim=1),
                layer.linear("down_proj").weight.detach().abs().amax(dim=0),
            ]
        ).amax(dim=0)
        for layer in layers
    ]


def _share(score_I: Tensor, kept_I: Tensor) -> float:
    total = score_I.double().square().sum().item()
    return score_I[kept_I].double().square().sum().item() / total if total else 1.0


def keep_channels(model: PreTrainedModel, kept: list[Tensor]) -> None:
    """Leave out every other intermediate channel of each layer, in place; the config follows."""
    for layer, kept_I in zip(find_decoder_parts(model, "prune_width"), kept, strict=True):
        keep_outputs(layer.linear("gate_proj"), kept_I)
        keep_outputs(layer.linear("up_proj"), kept_I)
        keep_inputs(layer.linear("down_proj"), kept_I)
        _rename_width(layer.mlp, len(kept_I))
    model.config.intermediate_size = len(kept[0])


def _rename_width(mlp: Any, width: int) -> None:
    """Llama's and Gemma's MLPs keep their width as a number as well."""
    if hasattr(mlp, "intermediate_size"):
        mlp.intermediate_size = width
