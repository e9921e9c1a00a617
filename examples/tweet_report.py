"""What four classifiers are worth together: pooled and stacked by the calibration part, judged by the test part.

Axes: N tweets, L labels, M members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """One member's log-probabilities on both parts, [N, L] each."""

    calibrate: Floats
    test: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A rule's accuracy on the test part against the best member's, with the exact McNemar p-value."""

    accuracy: float
    best_member: str
    best_accuracy: float
    p_value: float


def count_right(logprobs_NL: Floats, labels_N: Labels) -> NDArray[np.bool_]:
    """Say which tweets a member or a pool gets right."""
    right: NDArray[np.bool_] = logprobs_NL.argmax(axis=1) == labels_N
    return right


def pool_logs(members: Mapping[str, Predictions], labels_N: Labels) -> Floats:
    """Sum the members' log-probabilities, each divided by the temperature that fits the calibration part best."""
    pooled: Floats = sum(
        (one.test / _fit_temperature(one.calibrate, labels_N) for one in members.values()),
        start=np.zeros_like(next(iter(members.values())).test),
    )
    return pooled


def stack(members: Mapping[str, Predictions], labels_N: Labels) -> Floats:
    """Fit a multinomial regression on the members' log-probabilities, with a small ridge, and apply it."""
    fitted_NF = _features([one.calibrate for one in members.values()])
    num_labels = next(iter(members.values())).test.shape[1]
    shape = (fitted_NF.shape[1], num_labels)
    truth_NL = np.eye(num_labels)[labels_N]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weight_FL = flat.reshape(shape)
        logprobs_NL = log_softmax(fitted_NF @ weight_FL, axis=1)
        gradient_FL = fitted_NF.T @ (np.exp(logprobs_NL) - truth_NL) / len(labels_N) + 2e-4 * weight_FL
        value = -(truth_NL * logprobs_NL).sum() / len(labels_N) + 1e-4 * (weight_FL**2).sum()
        return float(value), gradient_FL.ravel()

    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    stacked: Floats = _features([one.test for one in members.values()]) @ found.x.reshape(shape)
    return stacked


def compare(rule_NL: Floats, members: Mapping[str, Predictions], labels_N: Labels) -> Comparison:
    """Set a rule against the member that is best on the test part itself, which is the hardest to beat."""
    right = count_right(rule_NL, labels_N)
    right_by_member = {name: count_right(one.test, labels_N) for name, one in members.items()}
    best = max(right_by_member, key=lambda name: right_by_member[name].sum())
    gained = int((right & ~right_by_member[best]).sum())
    lost = int((~right & right_by_member[best]).sum())
    return Comparison(
        accuracy=float(right.mean()),
        best_member=best,
        best_accuracy=float(right_by_member[best].mean()),
        p_value=float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
    )


def correlate_errors(members: Mapping[str, Predictions], labels_N: Labels) -> Floats:
    """Give the correlations between the members' errors on the test part: [M, M]."""
    wrong_MN = np.array([~count_right(one.test, labels_N) for one in members.values()], dtype=float)
    correlations: Floats = np.corrcoef(wrong_MN)
    return correlations


def _fit_temperature(logprobs_NL: Floats, labels_N: Labels) -> float:
    def loss(log_temperature: float) -> float:
        scaled_NL = log_softmax(logprobs_NL / np.exp(log_temperature), axis=1)
        return -float(scaled_NL[np.arange(len(labels_N)), labels_N].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def _features(logprobs: list[Floats]) -> Floats:
    return np.hstack([*logprobs, np.ones((len(logprobs[0]), 1))])
