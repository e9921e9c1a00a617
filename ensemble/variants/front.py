"""The variants that nothing betters in both of two figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def find_front(variants: Iterable[T], *, cost: Callable[[T], float], loss: Callable[[T], float]) -> tuple[T, ...]:
    """Keep those that lose less than everything as cheap or cheaper, the cheapest first; less of both is better."""
    front: list[T] = []
    for one in sorted(variants, key=lambda one: (cost(one), loss(one))):
        if not front or loss(one) < loss(front[-1]):
            front.append(one)
    return tuple(front)
