"""The picture of a search: every trial by its speed or size and its loss, the front, the limit, the choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensemble.calibration.plot_style import (
    GREY,
    INK,
    build_figure,
    draw_choice,
    draw_frame,
    draw_limit,
    draw_pareto,
    draw_references,
    draw_worth,
)
from ensemble.variants.adjust import Adjustment
from ensemble.variants.trial_figures import TrialFigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ensemble.variants.adjust_search import Measured

LOG_RANGE = 10.0
"""Perplexities that spread by more than this factor are drawn on a logarithmic axis."""


def plot_adjustment(adjustment: Adjustment) -> Figure:
    """Draw the trials; the chosen one again with what it is worth on what did not choose it."""
    figure, (axis,) = build_figure(9.0, 5.4)
    sound = [one for one in adjustment.measured if one.is_sound]
    axis.scatter(
        [_place(one, adjustment) for one in sound],
        [_height(one.loss, adjustment) for one in sound],
        s=20,
        color=GREY,
        linewidths=0,
        label=f"{len(sound)} variants that were tried",
    )
    _draw_front(axis, adjustment)
    _draw_original(axis, adjustment)
    if adjustment.chosen is not None:
        _draw_choice(axis, adjustment, next(one for one in sound if one.name == adjustment.chosen.name))
    _draw_scales(axis, adjustment, sound)
    draw_frame(axis, title="What speed costs" if adjustment.task.aim == "speed" else "What size costs", legend="best")
    return figure


def _place(one: Measured, adjustment: Adjustment) -> float:
    return one.speedup if adjustment.task.aim == "speed" else one.num_bytes / 2**20


def _height(loss: float, adjustment: Adjustment) -> float:
    """Draw a perplexity beside the original's, and a lost accuracy as it is."""
    return loss + 1.0 if adjustment.task.measure == "perplexity" else loss


def _place_of(figures: TrialFigures, adjustment: Adjustment) -> float:
    if adjustment.task.aim == "size":
        return figures.file_bytes / 2**20
    return figures.decode_speedup.value if figures.decode_speedup else 0.0


def _draw_front(axis: Axes, adjustment: Adjustment) -> None:
    front = adjustment.front
    places, heights = [_place(one, adjustment) for one in front], [_height(one.loss, adjustment) for one in front]
    draw_pareto(axis, places, heights)
    middle = (min(places, default=0.0) + max(places, default=0.0)) / 2
    for one, place, height in zip(front, places, heights, strict=True):
        is_left = place <= middle
        axis.annotate(
            one.name,
            (place, height),
            xytext=(6 if is_left else -6, 5),
            textcoords="offset points",
            ha="left" if is_left else "right",
            fontsize=8,
            color=INK,
        )


def _draw_original(axis: Axes, adjustment: Adjustment) -> None:
    original_bytes = next((one.original_bytes for one in adjustment.figures.values()), 0)
    place = 1.0 if adjustment.task.aim == "speed" else original_bytes / 2**20
    draw_references(axis, [place], [_height(0.0, adjustment)], label="original")


def _draw_choice(axis: Axes, adjustment: Adjustment, chosen: Measured) -> None:
    draw_choice(axis, _place(chosen, adjustment), _height(chosen.loss, adjustment), label="the choice")
    confirmed = adjustment.confirmed
    loss = confirmed.loss(adjustment.task.measure) if confirmed else None
    if confirmed is None or loss is None:
        return
    value, low, high = (_height(one, adjustment) for one in (loss.value, loss.low, loss.high))
    label = "the choice on what did not choose it (95 %)"
    draw_worth(axis, _place_of(confirmed, adjustment), value, low=low, high=high, label=label)


def _draw_scales(axis: Axes, adjustment: Adjustment, sound: list[Measured]) -> None:
    limit, is_speed = adjustment.task.limit, adjustment.task.aim == "speed"
    if limit.max_loss is not None:
        draw_limit(axis, quality=_height(limit.max_loss, adjustment))
    elif limit.min_speedup is not None and is_speed:
        draw_limit(axis, price=limit.min_speedup)
    is_perplexity = adjustment.task.measure == "perplexity"
    heights = [_height(one.loss, adjustment) for one in sound]
    if is_perplexity and heights and max(heights) > LOG_RANGE * min(heights):
        axis.set_yscale("log")
    by_processor = any(one.clock == "processor" for one in adjustment.figures.values())
    speed = f"decoding speed beside the original's (times{', by processor time' if by_processor else ''})"
    axis.set_xlabel(speed if is_speed else "weights (MiB)")
    axis.set_ylabel("perplexity beside the original's (times)" if is_perplexity else "lost accuracy")
