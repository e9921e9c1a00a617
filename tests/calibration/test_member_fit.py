from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ensemble.calibration.member_fit import fit_member, log_softmax


def _reports(num_items: int, temperature: float, bias: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Draw answers from softmax((ln P + bias) / temperature), P being what the member says."""
    generator = np.random.default_rng(11)
    log_probability = log_softmax(generator.normal(0.0, 2.0, (num_items, len(bias))))
    truth = softmax((log_probability + np.array(bias)) / temperature, axis=1)
    answers = np.array([generator.choice(len(bias), p=row) for row in truth])
    return log_probability, answers


def test_an_overconfident_members_temperature_is_found() -> None:
    log_probability, answers = _reports(4000, 2.5, [0.0, 0.0, 0.0])

    temperature, bias = fit_member(log_probability, np.ones((4000, 3), dtype=bool), answers, with_bias=False)

    assert temperature == pytest.approx(2.5, rel=0.1)
    assert not bias.any()


def test_a_bias_to_labels_is_found_and_lowers_the_log_loss() -> None:
    log_probability, answers = _reports(4000, 1.5, [1.0, 0.0, -1.0])

    temperature, bias = fit_member(log_probability, np.ones((4000, 3), dtype=bool), answers, with_bias=True)

    assert bias.tolist() == pytest.approx([1.0, 0.0, -1.0], abs=0.15)
    corrected = softmax((log_probability + bias) / temperature, axis=1)
    assert log_loss(answers, corrected) < log_loss(answers, np.exp(log_probability)) - 0.05


def test_two_labels_are_platt_scaling() -> None:
    log_probability, answers = _reports(2000, 1.7, [0.5, -0.5])

    temperature, bias = fit_member(log_probability, np.ones((2000, 2), dtype=bool), answers, with_bias=True)

    platt = LogisticRegression(C=np.inf).fit((log_probability[:, 1] - log_probability[:, 0])[:, None], answers)
    assert 1 / temperature == pytest.approx(float(platt.coef_[0, 0]), abs=0.01)
    assert (bias[1] - bias[0]) / temperature == pytest.approx(float(platt.intercept_[0]), abs=0.01)


def test_one_item_moves_little() -> None:
    log_probability = log_softmax(np.array([[5.0, 0.0]]))

    temperature, bias = fit_member(log_probability, np.ones((1, 2), dtype=bool), np.array([1]), with_bias=True)

    assert 1.0 < temperature < 10.0
    assert abs(bias / temperature).max() < 1.0


def test_candidates_that_an_item_lacks_do_not_matter() -> None:
    log_probability, answers = _reports(300, 2.0, [0.0, 0.0])
    padded = np.concatenate([log_probability, np.full((300, 1), 7.0)], axis=1)
    is_candidate = np.array([[True, True, False]] * 300)

    padded_fit = fit_member(padded, is_candidate, answers, with_bias=False)

    plain_fit = fit_member(log_probability, np.ones((300, 2), dtype=bool), answers, with_bias=False)
    assert padded_fit[0] == pytest.approx(plain_fit[0])
