from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import matthews_corrcoef

from ensemble.calibration.statistics import (
    accuracy_interval,
    calibration_error,
    compare_means,
    disagreement,
    error_correlation,
    mcnemar,
    reliability_curve,
    upper_bound,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "bounds.json").read_text())


@pytest.mark.parametrize(("num_hits", "num_trials"), [(0, 7), (3, 7), (7, 7), (211, 500)])
def test_the_interval_is_scipys_exact_one(num_hits: int, num_trials: int) -> None:
    interval = accuracy_interval(num_hits, num_trials)

    expected = stats.binomtest(num_hits, num_trials).proportion_ci(0.95, "exact")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_the_upper_bound_is_scipys_one_sided_one() -> None:
    expected = stats.binomtest(4, 900, alternative="less").proportion_ci(0.95, "exact").high

    assert upper_bound(4, 900) == pytest.approx(expected)


@pytest.mark.parametrize("case", VECTORS["items_without_disagreement"])
def test_a_bound_needs_as_many_items_without_disagreement_as_published(case: dict[str, float]) -> None:
    num_items = int(case["num_items"])

    assert upper_bound(0, num_items) <= case["delta"] < upper_bound(0, num_items - 1)


def test_nothing_seen_bounds_nothing() -> None:
    assert upper_bound(0, 0) == 1.0
    assert accuracy_interval(0, 0).low == 0.0
    assert accuracy_interval(0, 0).high == 1.0


def test_mcnemar_is_the_exact_binomial_test_on_discordant_items() -> None:
    first = [True] * 12 + [False] * 3 + [True] * 40
    second = [False] * 12 + [True] * 3 + [True] * 40

    found = mcnemar(first, second)

    assert (found.num_gained, found.num_lost) == (12, 3)
    assert found.p_value == pytest.approx(stats.binomtest(3, 15).pvalue)


def test_equal_answers_are_no_evidence() -> None:
    assert mcnemar([True, False], [True, False]).p_value == 1.0


def test_error_correlation_is_phi_over_items_that_both_answered() -> None:
    generator = np.random.default_rng(3)
    correct = generator.integers(0, 2, (3, 60)).astype(float)
    correct[0, :10] = math.nan
    correct[2, :] = 1.0

    phi = error_correlation(correct)

    assert phi[0, 1] == pytest.approx(matthews_corrcoef(correct[0, 10:], correct[1, 10:]))
    assert phi[0, 1] == phi[1, 0]
    assert phi[2, 0] == 0.0


def test_disagreement_leaves_out_items_without_a_ballot() -> None:
    shares = disagreement([["a", "b", None, "a"], ["a", "c", "c", "c"]])

    assert shares[0, 1] == pytest.approx(2 / 3)
    assert shares[0, 0] == 0.0


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    generator = np.random.default_rng(5)
    other = generator.normal(size=400)
    scores = other + generator.normal(0.2, 1.0, size=400)

    found = compare_means(scores, other, seed=1, num_samples=4000)

    expected = stats.ttest_rel(scores, other).confidence_interval(0.95)
    assert found.mean == pytest.approx((scores - other).mean())
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert found.p_value < 0.01
    assert compare_means(scores, other, seed=1, num_samples=4000) == found


def test_equal_scores_differ_by_nothing() -> None:
    assert compare_means([0.5] * 30, [0.5] * 30).p_value == 1.0


def test_the_reliability_curve_is_scikit_learns_with_quantile_bins() -> None:
    generator = np.random.default_rng(7)
    confidences = generator.uniform(size=1000)
    correct = generator.uniform(size=1000) < confidences**2

    curve = reliability_curve(confidences, correct)

    accuracy, confidence = calibration_curve(correct, confidences, n_bins=10, strategy="quantile")
    assert [one.accuracy for one in curve] == pytest.approx(accuracy.tolist(), abs=0.011)
    assert [one.mean_confidence for one in curve] == pytest.approx(confidence.tolist(), abs=0.005)
    assert sum(one.num_items for one in curve) == 1000


def test_items_of_one_confidence_share_a_bin() -> None:
    confidences = [0.5] * 90 + [0.9] * 10

    curve = reliability_curve(confidences, [True] * 45 + [False] * 45 + [True] * 10)

    assert [one.num_items for one in curve] == [90, 10]


def test_the_calibration_error_weighs_bins_by_their_items() -> None:
    confidences = [0.5] * 50 + [1.0] * 50

    error = calibration_error(confidences, [True] * 25 + [False] * 25 + [True] * 40 + [False] * 10)

    assert error == pytest.approx(0.5 * 0.0 + 0.5 * 0.2)
