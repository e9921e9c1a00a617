"""One member's own correction: a temperature and, where the labels are fixed, a bias for each label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ensemble.calibration.statistics import Bools, Floats

_MAX_LOG_INVERSE_TEMPERATURE = 3.0
_BIAS_DEVIATION = 1.0
"""Corrections this far from none are one standard deviation of the prior away; with few items it decides."""


def fit_member(
    log_probability_NK: Floats, is_candidate_NK: Bools, answer_N: NDArray[np.intp], *, with_bias: bool
) -> tuple[float, Floats]:
    """Fit P'(y) proportional to exp((ln P(y) + bias_y) / temperature) by penalised maximum likelihood.

    Gives the temperature, in [e**-3, e**3], and one bias a candidate (sum 0; all 0 unless ``with_bias``). Temperature:
    Guo et al. 2017, arXiv:1706.04599; bias: Zhao et al. 2021, arXiv:2102.09690, learned here. The penalty is a normal
    prior with deviation 1 on ln temperature and on bias / temperature, so that no items mean no correction.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  slow to import

    size = log_probability_NK.shape[1]
    rows = np.arange(len(answer_N))
    log_probability = np.where(is_candidate_NK, log_probability_NK, 0.0)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scale, shift_K = float(np.exp(parameters[0])), parameters[1:]
        logits = np.where(is_candidate_NK, scale * log_probability + (shift_K if with_bias else 0.0), -np.inf)
        log_posterior = log_softmax(logits)
        error = np.exp(log_posterior)
        error[rows, answer_N] -= 1.0
        value = -log_posterior[rows, answer_N].sum() + 0.5 * (parameters @ parameters) / _BIAS_DEVIATION**2
        gradient = parameters / _BIAS_DEVIATION**2
        gradient[0] += scale * float((error * log_probability).sum())
        if with_bias:
            gradient[1:] += error.sum(axis=0)
        return float(value), gradient

    start = np.zeros(1 + (size if with_bias else 0))
    limit = _MAX_LOG_INVERSE_TEMPERATURE
    bounds = [(-limit, limit), *[(None, None)] * (len(start) - 1)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    temperature = float(np.exp(-found[0]))
    bias_K = temperature * (found[1:] - found[1:].mean()) if with_bias else np.zeros(size)
    return temperature, np.asarray(bias_K, dtype=np.float64)


def log_softmax(logits_NK: Floats) -> Floats:
    """Normalise logits to log-probabilities along the last axis; -inf stays -inf."""
    shifted = logits_NK - logits_NK.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float64)
