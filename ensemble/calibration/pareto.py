"""The best lineup within limits, and the front that no other lineup betters in accuracy and price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from ensemble.calibration.lineup import Limits, MeasuredLineup

Axis = Literal["cost", "latency"]
ROUNDING = 1e-12
"""Means of the same figures may differ by this much."""


def price_of(measured: MeasuredLineup, axis: Axis) -> float:
    """Give what a lineup is charged with on the axis: its mean cost, or its mean latency in seconds."""
    return measured.cost if axis == "cost" else measured.latency_s


def rank_lineups(lineups: Iterable[MeasuredLineup], axis: Axis) -> list[MeasuredLineup]:
    """Sort lineups by what is preferred among equally accurate ones: cheap, then few members, then simple asking."""

    def preference(one: MeasuredLineup) -> tuple[float, float, int, bool]:
        other: Axis = "latency" if axis == "cost" else "cost"
        return price_of(one, axis), price_of(one, other), len(one.lineup.members), one.lineup.asking is not None

    return sorted(lineups, key=preference)


def choose_lineup(ranked: Sequence[MeasuredLineup], limits: Limits) -> MeasuredLineup | None:
    """Choose the most accurate lineup within the limits, the first of equals; None when none keeps them."""
    allowed = [one for one in ranked if limits.allow(one)]
    return max(allowed, key=lambda one: one.accuracy, default=None)


def pareto_front(lineups: Iterable[MeasuredLineup], axis: Axis) -> tuple[MeasuredLineup, ...]:
    """Keep those that are more accurate than everything as cheap or cheaper, the cheapest first."""
    front: list[MeasuredLineup] = []
    for one in sorted(rank_lineups(lineups, axis), key=lambda one: (price_of(one, axis), -one.accuracy)):
        if not front or one.accuracy > front[-1].accuracy + ROUNDING:
            front.append(one)
    return tuple(front)
