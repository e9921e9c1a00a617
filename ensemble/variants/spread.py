"""A figure and how far it may be off: by resampling what it was measured on, or by measuring it again.

Axes: B bootstrap samples, P parts (passages of a text).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ensemble.calibration.statistics import Interval

NUM_SAMPLES = 2_000
LARGEST_EXPONENT = math.log(sys.float_info.max)
"""Beyond it a perplexity is the largest float: JSON knows no infinity."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval; of a speed, the median round with the slowest and the fastest one."""

    value: float
    interval: Interval

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.interval.low:.4g} to {self.interval.high:.4g})"


def estimate_mean(sums_P: ArrayLike, counts_P: ArrayLike, *, is_log: bool = False, seed: int = 0) -> Estimate:
    """Give the mean over all parts (the sum of the sums over that of the counts), or with ``is_log`` its exponential.

    What stands in one part hangs together, so whole parts are drawn: percentile bootstrap over clusters (Efron 1979).
    Two figures that were measured on the same parts are compared by giving the differences of their sums.
    """
    sums, counts = np.asarray(sums_P, dtype=np.float64), np.asarray(counts_P, dtype=np.float64)
    generator = np.random.default_rng(seed)
    drawn_BP = generator.multinomial(sums.size, np.full(sums.size, 1.0 / sums.size), size=NUM_SAMPLES)
    means_B = (drawn_BP @ sums) / (drawn_BP @ counts)
    low, high = np.quantile(means_B, [0.025, 0.975])
    value = sums.sum() / counts.sum()
    if is_log:
        value, low, high = (math.exp(min(float(one), LARGEST_EXPONENT)) for one in (value, low, high))
    return Estimate(value=float(value), interval=Interval(low=float(low), high=float(high)))


def estimate_rounds(values: Sequence[float]) -> Estimate:
    """Give the median of what was measured several times, with its lowest and its highest value."""
    return Estimate(value=median(values), interval=Interval(low=min(values), high=max(values)))
