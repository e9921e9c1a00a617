"""A narrower residual stream: the same channels go everywhere, from the embeddings to the head.

Axes: W windows, T tokens, D channels of the stream, O output features.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from ensemble.compression.activations import watch_inputs
from ensemble.compression.cut_size import choose_size
from ensemble.compression.decoder_parts import read_epsilon, read_gain
from ensemble.compression.layer_walk import take_inputs
from ensemble.compression.step import MAX_WINDOWS, MAX_WINDOWS_DESCRIPTION, Step, StepContext, StepResult
from ensemble.compression.stream_parts import StreamParts, find_stream_parts, keep_stream_channels, scale_gain

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class PruneHidden(Step):
    """Drop the channels of the residual stream of which the layers make least on the calibration text.

    At each norm a channel's share is that of its normalised activations times the norm of the weights that read them,
    squared; its score is the sum of its shares over all norms and the head.
    """

    type: Literal["prune_hidden"] = "prune_hidden"
    ratio: float | None = Field(default=None, description="share of the channels that goes, up to 0.5")
    width: int | None = Field(default=None, ge=1, description="channels that stay, in place of a ratio")
    multiple_of: int = Field(
        default=16, ge=1, description="what the width that stays is a multiple of, beside the number of attention heads"
    )
    max_windows: int = Field(default=MAX_WINDOWS, ge=1, description=MAX_WINDOWS_DESCRIPTION)

    def check(self, empty: PreTrainedModel) -> None:
        """See that the stream can be cut so."""
        keep_stream_channels(empty, find_stream_parts(empty, self.type), torch.arange(self._choose_width(empty)))

    def estimate_passes(self, num_windows: int) -> float:
        """Count a pass for the scores and one for the norms."""
        return 2.0 * min(num_windows, self.max_windows)

    @torch.no_grad()
    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Drop channels, the earlier of equal ones stay; tell which stayed and their share of all scores.

        A norm then divides by the size of fewer channels. Each of its gains is multiplied with what brings the
        normalised channel nearest to what it was on the calibration text, by least squares.
        """
        windows_WT = context.calibrate_WT[: self.max_windows]
        width_before, width = model.config.hidden_size, self._choose_width(model)
        parts = find_stream_parts(model, self.type)
        score_D = _score(model, parts, windows_WT, context)
        kept_D = score_D.argsort(descending=True, stable=True)[:width].sort().values
        scales = _fit_scales(model, parts, kept_D, windows_WT, context)
        embedded_TD = take_inputs(model, model.model.layers[0], windows_WT[0])[0][:, kept_D]
        keep_stream_channels(model, parts, kept_D)
        for read, scale_D in zip(parts.reads, scales, strict=True):
            scale_gain(read.norm, scale_D)
        _keep_embedding_size(model, parts, embedded_TD, windows_WT[0])
        findings = {
            "hidden_before": width_before,
            "hidden": width,
            "kept_share": (score_D[kept_D].sum() / score_D.sum()).item(),
            "kept_hidden": kept_D.tolist(),
        }
        return StepResult(findings=findings)

    def _choose_width(self, model: PreTrainedModel) -> int:
        find_stream_parts(model, self.type)
        # transformers takes no other widths.
        multiple_of = math.lcm(self.multiple_of, model.config.num_attention_heads)
        size = model.config.hidden_size
        return choose_size(self.type, size, ratio=self.ratio, target=self.width, multiple_of=multiple_of)


def _score(model: PreTrainedModel, parts: StreamParts, windows_WT: Tensor, context: StepContext) -> Tensor:
    """Give ``score_D``, which sums up to the number of norms that are read."""
    reads = [read for read in parts.reads if read.readers]
    squares = [torch.zeros(model.config.hidden_size, dtype=torch.float64) for _ in reads]

    def add(index: int, input_TD: Tensor) -> None:
        square_TD = input_TD.double().square()
        squares[index] += (square_TD / square_TD.mean(dim=-1, keepdim=True)).sum(dim=0)

    watch_inputs(model, [read.norm for read in reads], windows_WT, add, on_phase=context.on_phase)
    score_D = torch.zeros_like(squares[0])
    for read, square_D in zip(reads, squares, strict=True):
        weight_OD = torch.cat([reader.weight for reader in read.readers])
        share_D = square_D * (weight_OD.norm(dim=0) * read_gain(read.norm, len(square_D))).double().square()
        score_D += share_D / share_D.sum()
    return score_D


def _fit_scales(
    model: PreTrainedModel, parts: StreamParts, kept_D: Tensor, windows_WT: Tensor, context: StepContext
) -> list[Tensor]:
    """Give, for each norm and each channel that stays, what its gain is to be multiplied with: ``scale_D``."""
    norms = [read.norm for read in parts.reads]
    epsilons = [read_epsilon(norm) for norm in norms]
    sums = [torch.zeros(2, len(kept_D), dtype=torch.float64) for _ in parts.reads]

    def add(index: int, input_TD: Tensor) -> None:
        square_TD = input_TD.double().square()
        kept_TD = square_TD[:, kept_D]
        mean_T1, kept_mean_T1 = (
            values_TD.mean(dim=-1, keepdim=True) + epsilons[index] for values_TD in (square_TD, kept_TD)
        )
        # What the channel was, times what it becomes; and the square of what it becomes.
        sums[index] += torch.stack(
            [(kept_TD / (mean_T1 * kept_mean_T1).sqrt()).sum(dim=0), (kept_TD / kept_mean_T1).sum(dim=0)]
        )

    watch_inputs(model, norms, windows_WT, add, on_phase=context.on_phase)
    return [torch.where(became_D > 0.0, both_D / became_D, 1.0).float() for both_D, became_D in sums]


def _keep_embedding_size(model: PreTrainedModel, parts: StreamParts, embedded_TD: Tensor, tokens_T: Tensor) -> None:
    """Undo what a model that scales embeddings by the width's root does to them now, and to a head that shares them."""
    now_TD = take_inputs(model, model.model.layers[0], tokens_T)[0]
    factor = ((embedded_TD * now_TD).sum() / now_TD.square().sum()).item()
    if abs(factor - 1.0) < 1e-6:
        return
    parts.embedding.weight.mul_(factor)
    if parts.head.weight is parts.embedding.weight:
        scale_gain(parts.reads[-1].norm, torch.full((len(parts.embedding.weight[0]),), 1.0 / factor))
