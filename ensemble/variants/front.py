"""The variants that nothing betters in both of two figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A variant by what it costs (bytes, seconds a token) and what it loses (perplexity); less of both is better."""

    name: str
    cost: float
    loss: float


def find_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Keep the points that lose less than everything as cheap or cheaper, the cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda one: (one.cost, one.loss)):
        if not front or point.loss < front[-1].loss:
            front.append(point)
    return tuple(front)
