"""How many tokens to propose before the mixture reads them: as many as pay, by what passes have cost so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MEMORY = 0.95
"""What an observation still weighs at the next one: about the last twenty count."""
_FIRST_SHARE_KEPT = 0.8
_LEAST_SHARE_REJECTED = 0.01


@dataclass(slots=True, kw_only=True)
class CostLine:
    """Seconds of a pass as a line over the tokens it reads, fitted to recent passes."""

    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)
    _slope: float = 0.0

    def add(self, num_tokens: int, seconds: float) -> None:
        """Take in a pass that has ended."""
        news = (1.0, num_tokens, seconds, num_tokens * num_tokens, num_tokens * seconds)
        self._sums = [_MEMORY * old + new for old, new in zip(self._sums, news, strict=True)]
        count, tokens, total, squares, products = self._sums
        spread = count * squares - tokens * tokens
        # Passes of one size say nothing of the slope: the last known one stays.
        if spread > 0.1 * squares:
            self._slope = max(0.0, (count * products - tokens * total) / spread)

    def estimate_s(self, num_tokens: int) -> float:
        """Give the seconds of a pass over that many tokens; 0 while nothing is known."""
        count, tokens, total, *_ = self._sums
        return max(0.0, total / count + self._slope * (num_tokens - tokens / count)) if count else 0.0

    @property
    def slope_s(self) -> float:
        """The seconds that one more token costs."""
        return self._slope


@dataclass(slots=True, kw_only=True)
class Pace:
    """Weighs one more proposal for each completion against reading those that are there.

    With a share ``a`` of proposals kept, m of them give (1 - a**m) / (1 - a) tokens: the mixture's own token takes the
    place of the first that is not kept. One more pays while the tokens it adds per second are more than what the
    block gives per second without it.
    """

    max_draft: int
    drafting: CostLine = field(default_factory=CostLine)
    reading: CostLine = field(default_factory=CostLine)
    num_kept: int = 0
    num_settled: int = 0
    _share_kept: float = _FIRST_SHARE_KEPT
    _next_length: int = 2

    def count_settled(self, *, num_kept: int, num_settled: int) -> None:
        """Take in how many of the proposals that were judged were kept."""
        self.num_kept += num_kept
        self.num_settled += num_settled
        for is_kept in (1.0,) * num_kept + (0.0,) * (num_settled - num_kept):
            self._share_kept = _MEMORY * self._share_kept + (1 - _MEMORY) * is_kept

    def wants_more(self, lengths: Sequence[int], rooms: Sequence[int]) -> bool:
        """Say whether another drafting pass pays, from each completion's proposals and the most it can use."""
        longest = max(lengths)
        growing = [length for length, room in zip(lengths, rooms, strict=True) if length < min(room, self.max_draft)]
        if not growing:
            return False
        if not self.reading.slope_s:
            return self._explores(longest)
        a = min(self._share_kept, 1 - _LEAST_SHARE_REJECTED)
        gained = sum(a**length for length in growing)
        draft_s = self.drafting.estimate_s(len(lengths))
        given = sum((1 - a**length) / (1 - a) for length in lengths)
        spent_s = longest * draft_s + self.reading.estimate_s(sum(lengths))
        return gained * spent_s > given * (draft_s + self.reading.slope_s * len(growing))

    def _explores(self, longest: int) -> bool:
        """Make blocks of different lengths until it is known what a token more costs to read."""
        if longest < self._next_length:
            return True
        self._next_length = 2 + (self._next_length - 1) % max(1, self.max_draft - 1)
        return False
