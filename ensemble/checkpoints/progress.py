"""How long work on a checkpoint tells its caller where it is."""

from __future__ import annotations

from collections.abc import Callable

OnPhase = Callable[[str, float], None]
"""Called with the phase's name and the share of it that is done, in [0, 1], from any thread."""


def ignore_phase(name: str, share: float, /) -> None:
    """Be the callback of a caller that does not want to know."""
    del name, share
