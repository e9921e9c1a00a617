"""Measured lineups for the tests of the search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensemble.calibration.lineup import Lineup, MeasuredLineup


def measured(
    name: str, scores: Sequence[float], *, cost: float = 1.0, latency_s: float = 1.0, size: int = 1
) -> MeasuredLineup:
    """Make a lineup of ``size`` members with these scores, the same price on every item."""
    members = (name,) if size == 1 else tuple(f"{name}{n}" for n in range(size))
    values = np.asarray(scores, dtype=np.float64)
    return MeasuredLineup(
        lineup=Lineup(members=members, strategy="majority"),
        scores=values,
        costs=np.full(values.size, cost),
        latencies_s=np.full(values.size, latency_s),
    )
