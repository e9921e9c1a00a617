"""Spreads agree with an independent bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ensemble.variants.spread import estimate_mean, estimate_rounds


def test_the_interval_of_a_mean_is_that_of_scipys_bootstrap_over_parts() -> None:
    random = np.random.default_rng(3)
    counts = random.integers(50, 200, size=24).astype(float)
    sums = counts * random.gamma(4.0, 0.8, size=24)

    estimate = estimate_mean(sums, counts)

    independent = stats.bootstrap(
        (sums, counts),
        lambda some, of, axis: some.sum(axis=axis) / of.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=9999,
        method="percentile",
        rng=np.random.default_rng(4),
    ).confidence_interval
    width = independent.high - independent.low
    assert estimate.value == pytest.approx(sums.sum() / counts.sum())
    assert estimate.interval.low == pytest.approx(independent.low, abs=0.06 * width)
    assert estimate.interval.high == pytest.approx(independent.high, abs=0.06 * width)


def test_a_logarithmic_mean_is_the_exponential_of_the_plain_one_with_the_same_seed() -> None:
    sums, counts = [10.0, 30.0, 12.0, 50.0], [8.0, 11.0, 9.0, 15.0]

    plain = estimate_mean(sums, counts)
    exponential = estimate_mean(sums, counts, is_log=True)

    assert exponential.value == pytest.approx(np.exp(102.0 / 43.0))
    assert exponential.interval.low == pytest.approx(np.exp(plain.interval.low))
    assert exponential.interval.high == pytest.approx(np.exp(plain.interval.high))


def test_a_perplexity_beyond_all_floats_is_the_largest_float() -> None:
    estimate = estimate_mean([8e5, 9e5], [100.0, 100.0], is_log=True)

    assert np.isfinite(estimate.value)
    assert estimate.value > 1e300


def test_rounds_give_their_median_and_their_range() -> None:
    estimate = estimate_rounds([30.0, 10.0, 20.0])

    assert (estimate.value, estimate.interval.low, estimate.interval.high) == (20.0, 10.0, 30.0)
