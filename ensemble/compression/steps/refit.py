"""Repair after a cut: each layer's last projections are fitted anew, so that the stream follows the original's.

Axes: W windows, T tokens, D hidden width, I input features, O output features.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from ensemble.compression.decoder_parts import PARTS, Part, find_decoder_parts, read_gain
from ensemble.compression.decoder_stream import DecoderStream
from ensemble.compression.ridge import Moments, choose_ridge
from ensemble.compression.step import Step, StepContext, StepResult
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Tried in turn where none is given."""
JUDGE_EVERY = 4
"""One window in so many judges the ridge and fits nothing until it is chosen."""


class Refit(Step):
    """Fit the last projections of attention and MLP anew by ridge regression, layer by layer in their order.

    What is fitted is the change of the weight, so that a strong ridge leaves the weight as it is. The target is what
    the original's stream is ahead of this model's at the same place, given what the refitted layers before produce.
    """

    type: Literal["refit"] = "refit"
    ridge: float | None = Field(
        default=None,
        gt=0.0,
        description="penalty, relative to the inputs' mean square; chosen for each layer by default",
    )
    max_windows: int = Field(default=64, ge=2, description="windows of the calibration text that are used at most")

    def check(self, empty: PreTrainedModel) -> None:
        """See that the layers are known."""
        find_decoder_parts(empty, self.type)

    def estimate_passes(self, num_windows: int) -> float:
        """Count a pass of each model, and about one more for the products."""
        return 3.0 * min(num_windows, self.max_windows)

    @torch.inference_mode()
    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Refit every layer; tell, a layer and part, the ridge and the share of what was missing that it gives back.

        The share is of windows that the fit has not seen.
        """
        windows_WT = context.calibrate_WT[: self.max_windows]
        if len(windows_WT) < 2:
            raise ConfigError(self.type, "there is one window of calibration text, and two are needed", "give more")
        original = DecoderStream(context.load_original(), windows_WT, self.type)
        ours = DecoderStream(model, windows_WT, self.type)
        channels_D = torch.tensor(context.original_hidden)
        fits: list[dict[str, Any]] = []
        next_number = 0
        for index, number in enumerate(context.original_layers):
            context.on_phase("refit", index / len(context.original_layers))
            for gone, part in itertools.product(range(next_number, number), PARTS):
                original.add(gone, part, original.run(gone, part))
            next_number = number + 1
            for part in PARTS:
                ridge, share = self._fit_part(ours, index, part, _reach_goal(original, number, part, channels_D))
                fits.append({"layer": index, "part": part, "ridge": ridge, "given_back": share})
        goal_WTD = original.stream_WTD[..., channels_D]
        error = (ours.stream_WTD - goal_WTD).norm() / goal_WTD.norm()
        return StepResult(findings={"fits": fits, "relative_error": error.item()})

    def _fit_part(self, ours: DecoderStream, index: int, part: Part, goal: _Goal) -> tuple[float, float]:
        """Fit a part's last projection, and move the stream past it; give the ridge and the share given back."""
        linear, norm = ours.layers[index].last(part), ours.layers[index].norm_after(part)
        inputs_WTI = torch.empty(*ours.stream_WTD.shape[:2], linear.in_features)
        outputs_WTD = ours.run(index, part, inputs_WTI=inputs_WTI)
        fit, judge = (Moments.empty(linear.in_features, linear.out_features) for _ in range(2))
        judge_every = min(JUDGE_EVERY, len(inputs_WTI))
        for window, input_TI in enumerate(inputs_WTI):
            factor_TD, weight_T1 = _read_factors(norm, goal.outputs_WTD[window], goal.stream_WTD[window])
            lead_TD = goal.stream_WTD[window] - ours.stream_WTD[window]
            missing_TD = lead_TD / factor_TD - outputs_WTD[window]
            moments = judge if window % judge_every == judge_every - 1 else fit
            moments.add(input_TI * weight_T1, missing_TD * weight_T1)
        ridge, share = choose_ridge(fit, judge, RIDGES if self.ridge is None else (self.ridge,))
        if share > 0.0:
            change_OI = fit.plus(judge).solve(ridge).float()
            linear.weight += change_OI
            for window, input_TI in enumerate(inputs_WTI):
                outputs_WTD[window] += input_TI @ change_OI.T
        ours.add(index, part, outputs_WTD)
        return ridge, share


@dataclass(frozen=True, slots=True, kw_only=True)
class _Goal:
    """What the original has behind a part, of the channels that are left."""

    outputs_WTD: Tensor
    """The part's own, before they go to the stream."""
    stream_WTD: Tensor


def _reach_goal(original: DecoderStream, number: int, part: Part, channels_D: Tensor) -> _Goal:
    """Move the original past a part."""
    outputs_WTD = original.run(number, part)
    original.add(number, part, outputs_WTD)
    return _Goal(outputs_WTD=outputs_WTD[..., channels_D], stream_WTD=original.stream_WTD[..., channels_D])


def _read_factors(norm: nn.Module | None, wanted_TD: Tensor, stream_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Give how much of an output reaches the stream, ``factor_TD``, and how much a token counts, ``weight_T1``.

    What comes later sees a token's stream relative to its size, and so is the error measured. A norm after the part
    divides by the output's size, which is taken to be that of the original's.
    """
    size_T1 = stream_TD.square().mean(dim=-1, keepdim=True).sqrt()
    if norm is None:
        return torch.ones_like(wanted_TD), 1.0 / size_T1
    wanted_size_T1 = wanted_TD.square().mean(dim=-1, keepdim=True).sqrt()
    return read_gain(norm, wanted_TD.shape[-1]) / wanted_size_T1, 1.0 / (wanted_size_T1 * size_T1)
