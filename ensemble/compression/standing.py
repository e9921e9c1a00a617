"""How far a run is, and about how long the rest will take, from what its parts told so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ensemble.checkpoints.progress import OnPhase


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a run is."""

    variant: str
    """Which of its variants is being made; empty while the source is read."""
    part: str
    """What of the variant's work, ``step 2 of 3, prune_layers``."""
    phase: str
    share: float
    """How much of the phase is done, in [0, 1]."""
    left_s: float | None
    """About how long the whole run will still take; None while nothing tells."""


OnStanding = Callable[[Standing], None]


def ignore_standing(standing: Standing, /) -> None:
    """Be the callback of a caller that does not want to know."""
    del standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a run."""

    variant: str
    name: str
    kind: str
    """Parts of a kind take about as long for the same cost."""
    cost: float
    """In forward passes of one window; roughly."""


class Clock:
    """Takes the time of parts in their order, and tells what it is heard of them."""

    def __init__(
        self, parts: Sequence[Part], on_standing: OnStanding, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._parts = list(parts)
        self._on_standing = on_standing
        self._now_s = now_s
        self._spent_by_kind: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def skip(self, num_parts: int = 1) -> None:
        """Leave out the next parts: an earlier run has done them."""
        del self._parts[:num_parts]

    @contextmanager
    def next_part(self) -> Iterator[OnPhase]:
        """Time the next part, and give what it tells its phases to."""
        part, begun_s = self._parts[0], self._now_s()
        phase, phase_begun_s = "", begun_s

        def hear(name: str, share: float) -> None:
            nonlocal phase, phase_begun_s
            now_s = self._now_s()
            if name != phase:
                phase, phase_begun_s = name, now_s
            phase_left_s = (now_s - phase_begun_s) * (1 - share) / share if share > 0 else None
            left_s = self._estimate(now_s - begun_s, phase_left_s)
            self._on_standing(Standing(variant=part.variant, part=part.name, phase=name, share=share, left_s=left_s))

        hear("begin", 0.0)
        yield hear
        spent = self._spent_by_kind[part.kind]
        spent[0] += self._now_s() - begun_s
        spent[1] += part.cost
        del self._parts[0]

    def _estimate(self, elapsed_s: float, phase_left_s: float | None) -> float | None:
        """Say about how long this part and those behind it take."""
        part = self._parts[0]
        rate = self._rate(part.kind)
        if rate is None:
            # The first part of all: only what it says itself is known.
            if phase_left_s is None:
                return None
            rate = (elapsed_s + phase_left_s) / part.cost
        own_left_s = max(part.cost * rate - elapsed_s, phase_left_s or 0.0)
        # A part that is slower than was thought says so of others that were measured by the same.
        if part.kind not in self._spent_by_kind:
            rate = max(rate, elapsed_s / part.cost)
        return own_left_s + sum(other.cost * (self._own_rate(other.kind) or rate) for other in self._parts[1:])

    def _own_rate(self, kind: str) -> float | None:
        seconds, cost = self._spent_by_kind.get(kind, (0.0, 0.0))
        return seconds / cost if cost else None

    def _rate(self, kind: str) -> float | None:
        """Give the seconds of one forward pass by parts of the kind, or else by all that are done."""
        own = self._own_rate(kind)
        if own is not None:
            return own
        seconds, cost = map(sum, zip(*self._spent_by_kind.values(), strict=True)) if self._spent_by_kind else (0.0, 0.0)
        return seconds / cost if cost else None
