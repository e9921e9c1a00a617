"""From sums to probabilities, and the weights of pools that are fitted rather than computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.calibration.member_fit import log_softmax
from ensemble.calibration.statistics import Bools, Floats

MIN_KAPPA = 1e-3
_LOG_KAPPA_DEVIATION = 2.0
_PRIOR_DEVIATION = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFit:
    """The kappa of softmax(kappa * (S + log_prior)), and the prior (0 everywhere when none was fitted)."""

    kappa: float
    log_prior_K: Floats


def fit_pool(
    sums_NK: Floats, is_candidate_NK: Bools, answer_N: NDArray[np.intp], *, max_kappa: float, with_prior: bool
) -> PoolFit:
    """Fit kappa in (0, ``max_kappa``] and the labels' prior by penalised likelihood.

    Pool first, then calibrate (Rahaman & Thiery 2020, arXiv:2007.08792). ``max_kappa`` is 2 for sums in units of
    log-odds; sums on another scale have another. The penalty is a wide normal prior on ln kappa around 0 (deviation 2),
    and one of deviation 1 on kappa * log_prior.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  slow to import

    size = sums_NK.shape[1]
    rows = np.arange(len(answer_N))
    sums = np.where(is_candidate_NK, sums_NK, 0.0)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        kappa, shift_K = float(np.exp(parameters[0])), parameters[1:]
        logits = np.where(is_candidate_NK, kappa * sums + (shift_K if with_prior else 0.0), -np.inf)
        log_posterior = log_softmax(logits)
        error = np.exp(log_posterior)
        error[rows, answer_N] -= 1.0
        precision = np.full(len(parameters), _PRIOR_DEVIATION**-2.0)
        precision[0] = _LOG_KAPPA_DEVIATION**-2.0
        value = -log_posterior[rows, answer_N].sum() + 0.5 * float(precision @ parameters**2)
        gradient = precision * parameters
        gradient[0] += kappa * float((error * sums).sum())
        if with_prior:
            gradient[1:] += error.sum(axis=0)
        return float(value), gradient

    start = np.zeros(1 + (size if with_prior else 0))
    bounds = [(np.log(MIN_KAPPA), np.log(max_kappa)), *[(None, None)] * (len(start) - 1)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    kappa = float(np.exp(found[0]))
    log_prior_K = log_softmax(found[1:] / kappa) if with_prior else np.zeros(size)
    return PoolFit(kappa=kappa, log_prior_K=log_prior_K)


def fit_stacking(
    log_probability_NMK: Floats, is_candidate_NK: Bools, answer_N: NDArray[np.intp], *, centre_M: Floats, penalty: float
) -> Floats:
    """Fit beta of softmax(sum_i beta_i ln P_i), a conditional logit (McFadden 1974) that stacks (Wolpert 1992).

    The squared distance from ``centre_M`` times ``penalty`` / 2 is added to the negative log-likelihood: much penalty
    gives the centre, little gives each member, negative ones too, what the items say.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  slow to import

    rows = np.arange(len(answer_N))
    features = np.where(is_candidate_NK[:, None, :], log_probability_NMK, 0.0)

    def loss(beta_M: Floats) -> tuple[float, Floats]:
        logits = np.where(is_candidate_NK, np.einsum("m,nmk->nk", beta_M, features), -np.inf)
        log_posterior = log_softmax(logits)
        error = np.exp(log_posterior)
        error[rows, answer_N] -= 1.0
        away = beta_M - centre_M
        value = -log_posterior[rows, answer_N].sum() + 0.5 * penalty * float(away @ away)
        return float(value), np.einsum("nk,nmk->m", error, features) + penalty * away

    return np.asarray(minimize(loss, centre_M, jac=True, method="L-BFGS-B").x, dtype=np.float64)


def negative_log_likelihood(logits_NK: Floats, is_candidate_NK: Bools, answer_N: NDArray[np.intp]) -> float:
    """Give the sum over items of -ln softmax(logits) at the answer."""
    log_posterior = log_softmax(np.where(is_candidate_NK, logits_NK, -np.inf))
    return -float(log_posterior[np.arange(len(answer_N)), answer_N].sum())
