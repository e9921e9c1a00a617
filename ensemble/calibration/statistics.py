"""Intervals, paired tests, error correlation and calibration error of measured figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where a figure lies with the stated confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """A paired comparison: items that only the first had right, items that only the second had, the two-sided p."""

    num_gained: int
    num_lost: int
    p_value: float

    @property
    def is_gain(self) -> bool:
        """Whether the first had more right; significance is the p-value's matter."""
        return self.num_gained > self.num_lost


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanDifference:
    """A paired difference of mean scores (first minus second) with its 95 % interval and two-sided p."""

    mean: float
    interval: Interval
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Items of about one confidence: their mean confidence and the share of them that was right."""

    mean_confidence: float
    accuracy: float
    num_items: int


def accuracy_interval(num_correct: int, num_items: int, *, confidence: float = 0.95) -> Interval:
    """Give the exact two-sided interval of a share (Clopper & Pearson 1934); of no items it is [0, 1]."""
    tail = (1.0 - confidence) / 2.0
    return Interval(
        low=1.0 - _upper_limit(num_items - num_correct, num_items, tail),
        high=_upper_limit(num_correct, num_items, tail),
    )


def upper_bound(num_hits: int, num_trials: int, *, confidence: float = 0.95) -> float:
    """Give the exact one-sided upper limit of a share (Clopper & Pearson 1934); of no trials it is 1."""
    return _upper_limit(num_hits, num_trials, 1.0 - confidence)


def lower_bound(num_hits: int, num_trials: int, *, confidence: float = 0.95) -> float:
    """Give the exact one-sided lower limit of a share (Clopper & Pearson 1934); of no trials it is 0."""
    return 1.0 - _upper_limit(num_trials - num_hits, num_trials, 1.0 - confidence)


def mcnemar(is_correct: ArrayLike, is_other_correct: ArrayLike) -> McNemar:
    """Compare two ways on the same items by the exact binomial test on the discordant ones (McNemar 1947)."""
    from scipy.special import bdtr  # noqa: PLC0415  slow to import

    first, second = np.asarray(is_correct, dtype=bool), np.asarray(is_other_correct, dtype=bool)
    gained, lost = int(np.sum(first & ~second)), int(np.sum(~first & second))
    p_value = min(1.0, 2.0 * float(bdtr(min(gained, lost), gained + lost, 0.5)))
    return McNemar(num_gained=gained, num_lost=lost, p_value=p_value)


def error_correlation(is_correct_MN: ArrayLike) -> Floats:
    """Give the phi coefficient of every two members' errors, M by M; 0 where one was never or always wrong.

    Rows are members and columns items; nan marks an item that the member gave no ballot on, which is left out of the
    member's pairs.
    """
    values = np.asarray(is_correct_MN, dtype=np.float64)
    members = len(values)
    correlations = np.eye(members)
    for first in range(members):
        for second in range(first):
            phi = _phi(values[first], values[second])
            correlations[first, second] = correlations[second, first] = phi
    return correlations


def disagreement(choice_MN: Sequence[Sequence[object]]) -> Floats:
    """Give the share of items on which every two members chose differently, M by M; None is no ballot and left out."""
    members = len(choice_MN)
    shares = np.zeros((members, members))
    for first in range(members):
        for second in range(first):
            pairs = [
                (mine, other)
                for mine, other in zip(choice_MN[first], choice_MN[second], strict=True)
                if mine is not None and other is not None
            ]
            share = sum(mine != other for mine, other in pairs) / len(pairs) if pairs else 0.0
            shares[first, second] = shares[second, first] = share
    return shares


def compare_means(
    scores: ArrayLike, other_scores: ArrayLike, *, seed: int = 0, num_samples: int = 10_000
) -> MeanDifference:
    """Compare mean scores on the same items by the paired bootstrap (Koehn 2004), percentile interval, seeded.

    The p-value is twice the share of samples on the other side of 0, with one sample added to each side so that it is
    never 0.
    """
    differences = np.asarray(scores, dtype=np.float64) - np.asarray(other_scores, dtype=np.float64)
    if not differences.size:
        return MeanDifference(mean=0.0, interval=Interval(low=0.0, high=0.0), p_value=1.0)
    generator = np.random.default_rng(seed)
    size = differences.size
    means = np.array([differences[generator.integers(0, size, size)].mean() for _ in range(num_samples)])
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min(int(np.sum(means <= 0.0)), int(np.sum(means >= 0.0)))
    return MeanDifference(
        mean=float(differences.mean()),
        interval=Interval(low=float(low), high=float(high)),
        p_value=min(1.0, 2.0 * (tail + 1) / (num_samples + 1)),
    )


def reliability_curve(
    confidences: ArrayLike, is_correct: ArrayLike, *, num_bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """Sort items by confidence into bins of equal numbers, equal confidences never parted; the least sure first."""
    confidence = np.asarray(confidences, dtype=np.float64)
    correct = np.asarray(is_correct, dtype=np.float64)
    order = np.argsort(confidence, kind="stable")
    confidence, correct = confidence[order], correct[order]
    bounds = [round(part * confidence.size / num_bins) for part in range(1, num_bins)]
    # A bin ends after the last of the items that share its last confidence.
    ends = {int(np.searchsorted(confidence, confidence[bound - 1], side="right")) for bound in bounds if bound}
    edges = sorted({0, confidence.size} | ends)
    return tuple(
        ReliabilityBin(
            mean_confidence=float(confidence[start:end].mean()),
            accuracy=float(correct[start:end].mean()),
            num_items=end - start,
        )
        for start, end in pairwise(edges)
    )


def calibration_error(confidences: ArrayLike, is_correct: ArrayLike, *, num_bins: int = 10) -> float:
    """Give the expected calibration error over bins of equal mass; 0 of no items.

    (Naeini et al. 2015; Nixon et al. 2019, arXiv:1904.01685.) Equal mass, because most confidences of a good
    ensemble lie close to 1 and bins of equal width would be empty.
    """
    bins = reliability_curve(confidences, is_correct, num_bins=num_bins)
    total = sum(one.num_items for one in bins)
    return sum(one.num_items * abs(one.accuracy - one.mean_confidence) for one in bins) / total if total else 0.0


def _upper_limit(num_hits: int, num_trials: int, tail: float) -> float:
    from scipy.special import betaincinv  # noqa: PLC0415  slow to import

    if num_hits >= num_trials:
        return 1.0
    return float(betaincinv(num_hits + 1, num_trials - num_hits, 1.0 - tail))


def _phi(first: Floats, second: Floats) -> float:
    both = ~(np.isnan(first) | np.isnan(second))
    mine, other = first[both], second[both]
    if not mine.size or mine.std() == 0.0 or other.std() == 0.0:
        return 0.0
    return float(np.corrcoef(mine, other)[0, 1])
