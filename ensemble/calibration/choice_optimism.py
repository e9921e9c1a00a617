"""How good the choice is on items that it was not made on: the optimism of having chosen, corrected.

The best of many lineups looks better on the items it was chosen on than it is. Bootstrap bias-corrected
cross-validation (Tsamardinos, Greasidou & Borboudakis 2018, arXiv:1708.07180) repeats the choice on resampled items
and reports the chosen lineup on the items left out of the sample. It needs the held-out outcomes alone, no new fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.calibration.lineup import Floats, Limits, MeasuredLineup
from ensemble.calibration.statistics import Interval

NUM_SAMPLES = 1_000
BATCH = 100
"""Samples that are looked at together; bounds the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedFigures:
    """What choosing is worth, with 95 % percentile intervals over the samples.

    ``naive`` is the chosen lineup's accuracy on all items; ``accuracy`` the corrected one. ``gain`` is corrected, too:
    how much more accurate the chosen lineup is than the single member that the same items would have chosen, on the
    items left out. It is None when no single member keeps the limits.
    """

    naive: float
    accuracy: float
    accuracy_interval: Interval
    gain: float | None
    gain_interval: Interval | None

    @property
    def optimism(self) -> float:
        """By how much the naive figure flatters."""
        return self.naive - self.accuracy


def correct_optimism(
    ranked: Sequence[MeasuredLineup], limits: Limits, *, num_samples: int = NUM_SAMPLES, seed: int = 0
) -> CorrectedFigures:
    """Repeat the choice among lineups, in the order in which equals are preferred, on resampled items.

    A sample in which no lineup keeps the limits takes the one that exceeds them least. At least one of all must keep
    them on all items, and there must be items.
    """
    choice = _Choice(ranked, limits)
    singles = [place for place, one in enumerate(ranked) if one.lineup.is_single and limits.allow(one)]
    generator = np.random.default_rng(seed)
    num_items = ranked[0].scores.size
    chosen_scores, gains = [], []
    for start in range(0, num_samples, BATCH):
        size = min(BATCH, num_samples - start)
        counts_BN = generator.multinomial(num_items, np.full(num_items, 1.0 / num_items), size=size).astype(np.float64)
        counts_BN = counts_BN[(counts_BN == 0).any(axis=1)]  # of very few items a sample may hold all
        chosen = choice.left_out_scores(counts_BN)
        chosen_scores.append(chosen)
        if singles:
            gains.append(chosen - choice.left_out_scores(counts_BN, among=np.array(singles)))
    scores = np.concatenate(chosen_scores)
    gain = np.concatenate(gains) if gains else None
    return CorrectedFigures(
        naive=max(one.accuracy for one in ranked if limits.allow(one)),
        accuracy=float(scores.mean()),
        accuracy_interval=_interval(scores),
        gain=None if gain is None else float(gain.mean()),
        gain_interval=None if gain is None else _interval(gain),
    )


class _Choice:
    """The choice among C lineups on N items, for B samples of the items at once."""

    def __init__(self, ranked: Sequence[MeasuredLineup], limits: Limits) -> None:
        self._scores_CN = np.array([one.scores for one in ranked])
        prices = (
            ([one.costs for one in ranked], limits.max_cost),
            ([one.latencies_s for one in ranked], limits.max_latency_s),
        )
        self._priced = [(np.array(price_CN), limit) for price_CN, limit in prices if limit is not None]

    def left_out_scores(self, counts_BN: Floats, *, among: NDArray[np.int64] | None = None) -> Floats:
        """Choose on each sample, and give the chosen one's mean score on the items that the sample lacks."""
        picked = slice(None) if among is None else among
        scores_CN = self._scores_CN[picked]
        merit_BC = counts_BN @ scores_CN.T / counts_BN.shape[1]
        excess_BC = np.zeros_like(merit_BC)
        for price_CN, limit in self._priced:
            mean_BC = counts_BN @ price_CN[picked].T / counts_BN.shape[1]
            excess_BC = np.maximum(excess_BC, mean_BC / limit - 1.0 if limit > 0.0 else mean_BC)
        # Scores lie in [0, 1]: whatever is beyond a limit is worse than all that keeps it.
        merit_BC = np.where(excess_BC > 0.0, -1.0 - excess_BC, merit_BC.round(12))
        chosen_B = merit_BC.argmax(axis=1)
        left_out_BN = counts_BN == 0.0
        sums_B = np.einsum("bn,bn->b", left_out_BN, scores_CN[chosen_B])
        return np.asarray(sums_B / left_out_BN.sum(axis=1), dtype=np.float64)


def _interval(values: Floats) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(low=float(low), high=float(high))
