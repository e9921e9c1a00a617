"""Stop strings in streamed text: nothing that might belong to one is given out too early."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopText:
    """Passes text through up to the first stop string, holding back what could be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_met = False

    def push(self, text: str) -> str:
        """Take the next text; return what is certainly part of the completion. Sets ``is_met`` at a stop string."""
        if not self._stops or not text:
            return text
        text = self._held + text
        starts = [start for stop in self._stops if (start := text.find(stop)) >= 0]
        if starts:
            self.is_met, self._held = True, ""
            return text[: min(starts)]
        num_held = max(self._num_begun(text, stop) for stop in self._stops)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def flush(self) -> str:
        """Return what was held back: the completion has ended, so no stop string can follow."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _num_begun(text: str, stop: str) -> int:
        longest = min(len(text), len(stop) - 1)
        return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
