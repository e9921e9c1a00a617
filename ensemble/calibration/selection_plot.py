"""The picture of a search: every lineup by price and accuracy, the front, the single members, the choice."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ensemble.calibration.lineup import MeasuredLineup
from ensemble.calibration.pareto import price_of
from ensemble.calibration.plot_style import BLUE, GREEN, ORANGE, build_figure
from ensemble.calibration.selection import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_DOTS_PER_IN = 150
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
    _draw_front(axis, selection)
    _draw_singles(axis, [one for one in drawn if one.lineup.is_single], selection)
    _draw_choice(axis, selection)
    _draw_scales(axis, selection)
    axis.legend(frameon=True, framealpha=0.9, edgecolor="none", loc="lower right", fontsize=9)
    return figure


def png_of(figure: Figure) -> bytes:
    """Draw a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=PNG_DOTS_PER_IN, metadata={"Software": None})
    return stream.getvalue()


def _price(one: MeasuredLineup, selection: Selection) -> float:
    return one.cost if selection.axis == "cost" else one.latency_s * 1_000


def _draw_front(axis: Axes, selection: Selection) -> None:
    prices = [_price(one, selection) for one in selection.front]
    accuracies = [one.accuracy for one in selection.front]
    axis.step(prices, accuracies, where="post", color=BLUE, linewidth=1.4, alpha=0.8)
    axis.scatter(prices, accuracies, s=26, color=BLUE, zorder=3, label="Pareto front")


def _draw_singles(axis: Axes, singles: Sequence[MeasuredLineup], selection: Selection) -> None:
    prices = [_price(one, selection) for one in singles]
    axis.scatter(
        prices,
        [one.accuracy for one in singles],
        marker="D",
        s=44,
        facecolors="white",
        edgecolors=ORANGE,
        linewidths=1.6,
        zorder=4,
        label="one member alone",
    )
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
    price = _price(selection.chosen, selection)
    corrected = selection.corrected
    interval = corrected.accuracy_interval
    axis.errorbar(
        price,
        corrected.accuracy,
        yerr=[[corrected.accuracy - interval.low], [interval.high - corrected.accuracy]],
        fmt="_",
        color=GREEN,
        capsize=4,
        linewidth=1.6,
        markersize=12,
        zorder=5,
        label="the choice, optimism corrected (95 %)",
    )
    axis.scatter(
        [price], [selection.chosen.accuracy], marker="*", s=190, color=GREEN, zorder=5, label="the choice, as measured"
    )


def _draw_scales(axis: Axes, selection: Selection) -> None:
    limits = selection.limits
    limit = limits.max_cost if selection.axis == "cost" else limits.max_latency_s
    if limit is not None:
        shown = limit if selection.axis == "cost" else limit * 1_000
        axis.axvline(shown, color="#1b1f24", linestyle="--", linewidth=1.0, label="limit")
    prices = [price_of(one, selection.axis) for one in selection.lineups]
    if min(prices) > 0.0 and max(prices) > LOG_RANGE * min(prices):
        axis.set_xscale("log")
    unit = f"cost ({selection.cost_unit} a request, mean)"
    axis.set_xlabel(unit if selection.axis == "cost" else "latency (ms a request, mean)")
    axis.set_ylabel("accuracy on held-out items (mean score)")
    axis.grid(color="#e4e8ec")
    axis.set_axisbelow(True)
    axis.set_title(f"What accuracy costs, on {selection.num_items} items", loc="left")
