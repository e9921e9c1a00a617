from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from ensemble.calibration.conformal import conformal_threshold


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
