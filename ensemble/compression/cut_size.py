"""How wide something is after a cut: the same in every layer, and a multiple of what the hardware likes."""

from __future__ import annotations

import math

from ensemble.errors import ConfigError

MAX_CUT_SHARE = 0.5
"""More at once leaves too little to repair: two rounds, each with a repair, lose less."""
_TWICE = "cut in two rounds, with a repair after each"


def choose_size(step: str, size: int, *, ratio: float | None, target: int | None, multiple_of: int) -> int:
    """Give the size that a cut leaves: the target, or what is nearest to ``1 - ratio`` of the present one.

    Raises:
        ConfigError: both or neither are given, or there is no such size below the present one.
    """
    if ratio is not None and target is None:
        return _round_ratio(f"{step}.ratio", size, ratio, multiple_of)
    if ratio is not None or target is None:
        raise ConfigError(step, "either a ratio or a size says how much is cut", "give one of the two")
    if target >= size:
        raise ConfigError(step, f"{target} is not below the model's {size}", "give less")
    if target < size * (1.0 - MAX_CUT_SHARE):
        raise ConfigError(step, f"going from {size} to {target} cuts more than half at once", _TWICE)
    if target % multiple_of:
        raise ConfigError(step, f"{target} is no multiple of {multiple_of}", "give one, or a smaller multiple_of")
    return target


def _round_ratio(where: str, size: int, ratio: float, multiple_of: int) -> int:
    if not 0.0 < ratio < 1.0:
        raise ConfigError(where, f"{ratio:g} is no share that can be cut", f"give one up to {MAX_CUT_SHARE}")
    if ratio > MAX_CUT_SHARE:
        raise ConfigError(where, f"{ratio:g} is more than half at once", _TWICE)
    # The larger one on a tie.
    chosen = math.floor(size * (1.0 - ratio) / multiple_of + 0.5) * multiple_of
    if not 0 < chosen < size:
        problem = f"the multiple of {multiple_of} nearest to {1.0 - ratio:g} of {size} is {chosen}"
        raise ConfigError(where, problem, "give another ratio, or a smaller multiple_of")
    return chosen
