"""Which recipe to try next, and which one is best: from what was measured alone, in whatever order that came in.

Along a chain loss and speed are taken to grow, so a limit is found by cutting the chain into parts again and again.
What is tried next follows from the chain's own finished trials, never from which of several came first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ensemble.variants.adjust_template import Chain, Point
from ensemble.variants.front import find_front

Aim = Literal["speed", "size"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A trial's figures as far as the search needs them, or that it came to nothing.

    ``loss`` is by how much it is worse than the original, ``speedup`` the factor by which it decodes faster.
    """

    name: str
    loss: float = float("inf")
    speedup: float = 0.0
    num_bytes: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether it came to something."""
        return self.loss < float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a variant must keep; one of the two is given."""

    max_loss: float | None = None
    min_speedup: float | None = None

    def allows(self, one: Measured) -> bool:
        """Say whether a variant keeps it."""
        if not one.is_sound:
            return False
        if self.max_loss is not None:
            return one.loss <= self.max_loss
        return self.min_speedup is None or one.speedup >= self.min_speedup

    def calls_mild(self, one: Measured) -> bool:
        """Say whether stronger points of its chain are to be tried: what came to nothing was too strong."""
        return self.allows(one) if self.max_loss is not None else one.is_sound and not self.allows(one)


def next_points(chain: Chain, measured: Mapping[str, Measured], limit: Limit, *, at_once: int = 1) -> tuple[Point, ...]:
    """Give the points of a chain to try next, as many as ``at_once``; none when it is known where the limit is passed.

    Those that are being tried are among them, so that what comes next does not depend on which ends first.
    """
    # Under a bound on the loss mild points keep it; under one on the speed strong points do.
    mild, strong = -1, len(chain.points)
    while strong - mild > 1:
        batch = _cut(mild, strong, at_once)
        missing = [chain.points[index] for index in batch if chain.points[index].name not in measured]
        if missing:
            return tuple(missing)
        for index in batch if limit.max_loss is not None else reversed(batch):
            one = measured[chain.points[index].name]
            if limit.calls_mild(one):
                mild = index
            else:
                strong = index
            # Those beyond it are on the same side of the limit.
            if limit.calls_mild(one) != (limit.max_loss is not None):
                break
    return ()


def _cut(mild: int, strong: int, at_once: int) -> list[int]:
    """Choose points strictly between two, evenly spread."""
    inside = strong - mild - 1
    count = min(at_once, inside)
    return sorted({mild + (number * (inside + 1)) // (count + 1) for number in range(1, count + 1)} - {mild, strong})


def choose(measured: Iterable[Measured], limit: Limit, aim: Aim) -> Measured | None:
    """Choose the best variant within the limit; None when none keeps it.

    Under a bound on the loss that is the fastest or the smallest one, under one on the speed that of the least loss;
    of equals the one of less loss, of fewer bytes, and at last of the first name.
    """
    allowed = [one for one in measured if limit.allows(one)]

    def preference(one: Measured) -> tuple[float, float, int, str]:
        price = 0.0 if limit.max_loss is None else price_of(one, aim)
        return price, one.loss, one.num_bytes, one.name

    return min(allowed, key=preference, default=None)


def find_nearest(measured: Iterable[Measured], limit: Limit) -> Measured | None:
    """Give the variant that misses the limit by least; None when no trial came to anything."""
    sound = [one for one in measured if one.is_sound]
    return min(
        sound, key=lambda one: (one.loss if limit.max_loss is not None else -one.speedup, one.name), default=None
    )


def price_of(one: Measured, aim: Aim) -> float:
    """Give what is to be little: the time of a token beside the original's, or the bytes."""
    return 1.0 / max(one.speedup, 1e-9) if aim == "speed" else float(one.num_bytes)


def pareto_front(measured: Iterable[Measured], aim: Aim) -> tuple[Measured, ...]:
    """Keep those that lose less than everything as fast or as small, the fastest or smallest first."""
    sound = {one.name: one for one in measured if one.is_sound}
    return find_front(sound.values(), cost=lambda one: price_of(one, aim), loss=lambda one: one.loss)


def count_most(chains: Sequence[Chain], *, at_once: int = 1) -> int:
    """Say how many trials the chains take at the most."""
    total = 0
    for chain in chains:
        left = len(chain.points)
        while left > 0:
            batch = min(at_once, left)
            total += batch
            left = -(-(left - batch) // (batch + 1))
    return total
