"""The picture of a search: every lineup by price and accuracy, the front, the single members, the choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ensemble.calibration.lineup import MeasuredLineup
from ensemble.calibration.pareto import price_of
from ensemble.calibration.plot_style import (
    build_figure,
    draw_choice,
    draw_frame,
    draw_limit,
    draw_pareto,
    draw_references,
    draw_worth,
)
from ensemble.calibration.selection import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_RANGE = 30.0
"""Prices that spread by more than this factor are drawn on a logarithmic axis."""


def plot_selection(selection: Selection) -> Figure:
    """Draw the lineups; the chosen one with its corrected accuracy and that one's interval."""
    figure, (axis,) = build_figure(9.0, 5.4)
    drawn = selection.lineups
    axis.scatter(
        [_price(one, selection) for one in drawn],
        [one.accuracy for one in drawn],
        s=9,
        color="#c3cad1",
        linewidths=0,
        label=f"{len(drawn)} lineups of {len(selection.searched.merit_by_panel)} panels",
        rasterized=True,
    )
    front = selection.front
    draw_pareto(axis, [_price(one, selection) for one in front], [one.accuracy for one in front])
    _draw_singles(axis, [one for one in drawn if one.lineup.is_single], selection)
    _draw_choice(axis, selection)
    _draw_scales(axis, selection)
    draw_frame(axis, title=f"What accuracy costs, on {selection.num_items} items", legend="lower right")
    return figure


def _price(one: MeasuredLineup, selection: Selection) -> float:
    return one.cost if selection.axis == "cost" else one.latency_s * 1_000


def _draw_singles(axis: Axes, singles: Sequence[MeasuredLineup], selection: Selection) -> None:
    prices = [_price(one, selection) for one in singles]
    draw_references(axis, prices, [one.accuracy for one in singles], label="one member alone")
    for one, price in zip(singles, prices, strict=True):
        axis.annotate(
            one.lineup.members[0],
            (price, one.accuracy),
            xytext=(7, -11),
            textcoords="offset points",
            fontsize=9,
            color="#8a3c00",
            zorder=6,
        )


def _draw_choice(axis: Axes, selection: Selection) -> None:
    price, corrected = _price(selection.chosen, selection), selection.corrected
    draw_worth(
        axis,
        price,
        corrected.accuracy,
        low=corrected.accuracy_interval.low,
        high=corrected.accuracy_interval.high,
        label="the choice, optimism corrected (95 %)",
    )
    draw_choice(axis, price, selection.chosen.accuracy, label="the choice, as measured")


def _draw_scales(axis: Axes, selection: Selection) -> None:
    limits = selection.limits
    limit = limits.max_cost if selection.axis == "cost" else limits.max_latency_s
    if limit is not None:
        draw_limit(axis, price=limit if selection.axis == "cost" else limit * 1_000)
    prices = [price_of(one, selection.axis) for one in selection.lineups]
    if min(prices) > 0.0 and max(prices) > LOG_RANGE * min(prices):
        axis.set_xscale("log")
    unit = f"cost ({selection.cost_unit} a request, mean)"
    axis.set_xlabel(unit if selection.axis == "cost" else "latency (ms a request, mean)")
    axis.set_ylabel("accuracy on held-out items (mean score)")
