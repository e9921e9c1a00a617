"""What each strategy's tally sums, for many items at once; axes as in vote_arrays.py."""

from __future__ import annotations

import math

import numpy as np

from ensemble.calibration.statistics import Bools, Floats
from ensemble.calibration.vote_arrays import VoteArrays
from ensemble.voting.log_linear import LOG_POOL_FLOOR

HARD_STRATEGIES = ("weighted_vote", "majority")
"""Those that need no probabilities."""
SOFT_STRATEGIES = ("soft_vote", "log_pool", "borda", "stacking")
"""Those that can be calibrated only if every ballot has its probabilities."""


def shares_of(strategy: str, arrays: VoteArrays) -> Floats:
    """Give what one unit of each member's weight adds to each candidate (N, M, K); 0 for no ballot or candidate."""
    is_cast = arrays.has_ballot_NM[:, :, None] & arrays.is_candidate_NK[:, None, :]
    if strategy in HARD_STRATEGIES:
        places = np.arange(arrays.is_candidate_NK.shape[1])
        return np.asarray(arrays.choice_NM[:, :, None] == places, dtype=np.float64)
    probability = np.where(is_cast, np.exp(arrays.log_probability_NMK), 0.0)
    if strategy == "soft_vote":
        return probability
    if strategy == "borda":
        return np.where(is_cast, _points(probability, is_cast), 0.0)
    clipped = np.where(is_cast, np.clip(probability, LOG_POOL_FLOOR, 1.0 - LOG_POOL_FLOOR), 0.0)
    total = clipped.sum(axis=2, keepdims=True)
    return np.where(is_cast, np.log(np.where(is_cast, clipped, 1.0) / np.where(total > 0.0, total, 1.0)), 0.0)


def reach_of(strategy: str, arrays: VoteArrays) -> Floats:
    """Give by item the most that a ballot of weight 1 can move a gap; times the cast weight it is a margin of 1."""
    size = len(arrays.answer_N)
    if strategy == "borda":
        return np.asarray(arrays.is_candidate_NK.sum(axis=1) - 1.0, dtype=np.float64)
    if strategy in ("log_pool", "stacking"):
        return np.full(size, math.log1p(-LOG_POOL_FLOOR) - math.log(LOG_POOL_FLOOR))
    return np.ones(size)


def counted_weights(strategy: str, weight_M: Floats) -> Floats:
    """Give the weights that the strategy's sums use: heads for majority, whatever the members' own."""
    return np.ones_like(weight_M) if strategy == "majority" else weight_M


def add_up(shares_NMK: Floats, weight_M: Floats, log_prior_K: Floats | None = None) -> Floats:
    """Give S_y = ln prior_y + sum of w_i * share_i(y)."""
    sums = np.einsum("m,nmk->nk", weight_M, shares_NMK)
    return np.asarray(sums if log_prior_K is None else sums + log_prior_K, dtype=np.float64)


def _points(probability_NMK: Floats, is_cast_NMK: Bools) -> Floats:
    """Count the candidates below each, and half of those level with it: equal ones share the points of their places."""
    marks = np.where(is_cast_NMK, probability_NMK, -1.0)
    own, other = marks[:, :, :, None], marks[:, :, None, :]
    is_rival = is_cast_NMK[:, :, None, :]
    below = (is_rival & (other < own)).sum(axis=3)
    level = (is_rival & (other == own)).sum(axis=3) - 1.0
    return np.asarray(below + level / 2.0, dtype=np.float64)
