from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from ensemble.calibration.conformal import conformal_threshold
from ensemble.calibration.member_fit import log_softmax
from ensemble.calibration.parameters import ParameterOptions, fit_parameters
from ensemble.calibration.sums import add_up, shares_of
from ensemble.calibration.vote_arrays import build_arrays
from ensemble.voting.short_answer import AnswerRule
from tests.calibration.simulated import Population, simulate, voters_of


class _Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier whose features are its probabilities."""

    def __init__(self, num_classes: int = 4) -> None:
        self.num_classes = num_classes
        self.classes_ = np.arange(num_classes)

    def fit(self, features: Any, target: Any) -> _Given:
        return self

    def predict_proba(self, features: Any) -> Any:
        return np.asarray(features)

    def predict(self, features: Any) -> Any:
        return np.asarray(features).argmax(axis=1)

    def __sklearn_is_fitted__(self) -> bool:
        return True


@pytest.mark.parametrize(("alpha", "expected"), [(0.1, 0.7), (0.2, 0.55), (0.3, 0.41)])
def test_the_threshold_is_the_finite_sample_quantile(alpha: float, expected: float) -> None:
    scores = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.41, 0.55, 0.7])

    assert conformal_threshold(1.0 - scores, alpha=alpha) == pytest.approx(expected)


def test_too_few_items_rule_nothing_out() -> None:
    assert conformal_threshold([0.9] * 8, alpha=0.1) == 1.0
    assert conformal_threshold([0.9] * 9, alpha=0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("seed", range(4))
def test_label_sets_are_those_of_mapie(seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet([0.7] * 4, 400)
    answers = np.array([generator.choice(4, p=row) for row in probabilities])
    calibrated, asked = slice(0, 203), slice(203, 400)

    threshold = conformal_threshold(probabilities[calibrated][np.arange(203), answers[calibrated]], alpha=0.15)

    oracle = SplitConformalClassifier(_Given(), confidence_level=0.85, conformity_score="lac", prefit=True)
    oracle.conformalize(probabilities[calibrated], answers[calibrated])
    _, sets = oracle.predict_set(probabilities[asked])
    assert np.array_equal(probabilities[asked] >= 1.0 - threshold - 1e-12, sets[:, :, 0])


def test_sets_hold_the_answer_as_often_as_promised() -> None:
    generator = np.random.default_rng(1)
    held = []
    for _ in range(400):
        scores = generator.beta(2.0, 3.0, 51)
        held.append(scores[-1] <= conformal_threshold(1.0 - scores[:-1], alpha=0.2))

    assert 0.75 < np.mean(held) < 0.86


def test_label_sets_fitted_on_few_items_still_hold_the_answer_as_often_as_promised() -> None:
    coverage = [_fitted_coverage(seed, alpha=0.2) for seed in range(25)]

    assert np.mean(coverage) >= 0.8


def _fitted_coverage(seed: int, *, alpha: float) -> float:
    """Fit everything on 40 items of six labels, priors included, and give the share of fresh items in their sets."""
    labels = tuple("abcdef")
    population = Population(skills=(2.0, 1.5), families=("a", "b"), num_choices=len(labels))
    items = [replace(one, item=replace(one.item, choices=labels)) for one in simulate(population, 40 + 400, seed=seed)]
    fitted, fresh = (
        build_arrays(part, voters_of(population), answer_rule=AnswerRule()) for part in (items[:40], items[40:])
    )
    options = ParameterOptions(strategies=("log_pool",), conformal_alpha=alpha, risk_delta=None, withhold_below=0.0)

    parameters = fit_parameters(fitted, options)

    strategy = parameters.by_strategy["log_pool"]
    weight_M = np.array(list(strategy.weight_by_member.values()))
    prior_K = np.array(list(strategy.log_prior_by_label.values()))
    sums_NK = add_up(shares_of("log_pool", fresh.correct(parameters.calibrations)), weight_M, prior_K)
    probability_NK = np.exp(log_softmax(strategy.kappa * sums_NK))
    probability_N = probability_NK[np.arange(len(sums_NK)), fresh.answer_N]
    assert strategy.conformal_threshold is not None
    return float(np.mean(probability_N >= 1.0 - strategy.conformal_threshold))
