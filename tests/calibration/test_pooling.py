from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from ensemble.calibration.member_fit import log_softmax
from ensemble.calibration.pooling import fit_pool, fit_stacking, negative_log_likelihood


def _draw(probability: np.ndarray, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.array([generator.choice(probability.shape[1], p=row) for row in probability])


def test_the_kappa_that_made_the_answers_is_found() -> None:
    sums = np.random.default_rng(1).normal(0.0, 3.0, (4000, 4))
    answers = _draw(softmax(0.6 * sums, axis=1), 2)

    fit = fit_pool(sums, np.ones((4000, 4), dtype=bool), answers, max_kappa=2.0, with_prior=False)

    assert fit.kappa == pytest.approx(0.6, rel=0.08)
    assert not fit.log_prior_K.any()


def test_the_labels_prior_is_found() -> None:
    sums = np.random.default_rng(1).normal(0.0, 2.0, (4000, 3))
    prior = np.log([0.6, 0.3, 0.1])
    answers = _draw(softmax(0.8 * (sums + prior), axis=1), 2)

    fit = fit_pool(sums, np.ones((4000, 3), dtype=bool), answers, max_kappa=2.0, with_prior=True)

    assert np.exp(fit.log_prior_K).tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.05)


def test_kappa_stays_within_its_range() -> None:
    sums = np.array([[1.0, 0.0]] * 5000)

    surest = fit_pool(sums, np.ones((5000, 2), dtype=bool), np.zeros(5000, dtype=int), max_kappa=2.0, with_prior=False)
    wrong = fit_pool(sums, np.ones((5000, 2), dtype=bool), np.ones(5000, dtype=int), max_kappa=2.0, with_prior=False)

    assert surest.kappa == pytest.approx(2.0)
    assert 0.0 < wrong.kappa < 0.01


def test_stacking_two_labels_is_a_logistic_regression_on_log_odds() -> None:
    generator = np.random.default_rng(4)
    log_probability = log_softmax(generator.normal(0.0, 1.5, (600, 3, 2)))
    log_odds = log_probability[:, :, 1] - log_probability[:, :, 0]
    chance = 1 / (1 + np.exp(-(log_odds @ np.array([1.0, 0.5, -0.4]))))
    answers = (generator.uniform(size=600) < chance).astype(int)

    beta = fit_stacking(log_probability, np.ones((600, 2), dtype=bool), answers, centre_M=np.zeros(3), penalty=2.0)

    oracle = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-8).fit(log_odds, answers)
    assert beta.tolist() == pytest.approx(oracle.coef_[0].tolist(), abs=2e-3)
    assert beta[2] < -0.2


def test_a_strong_penalty_gives_the_centre() -> None:
    generator = np.random.default_rng(4)
    log_probability = log_softmax(generator.normal(size=(50, 2, 3)))

    beta = fit_stacking(
        log_probability,
        np.ones((50, 3), dtype=bool),
        generator.integers(0, 3, 50),
        centre_M=np.array([0.7, 0.2]),
        penalty=1e6,
    )

    assert beta.tolist() == pytest.approx([0.7, 0.2], abs=1e-3)


def test_impossible_candidates_take_no_probability() -> None:
    logits = np.array([[1.0, 1.0, 99.0]])

    loss = negative_log_likelihood(logits, np.array([[True, True, False]]), np.array([0]))

    assert loss == pytest.approx(np.log(2.0))
