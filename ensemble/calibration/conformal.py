"""Label sets with a stated error rate, by split conformal prediction."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def conformal_threshold(probability_of_answer_N: ArrayLike, *, alpha: float) -> float:
    """Give q such that the choices with probability >= 1 - q contain the answer with probability >= 1 - alpha.

    The score of an item is 1 - P(answer); q is the ceil((n + 1) (1 - alpha))-th smallest of n scores, which is exact
    for exchangeable items, one fit of the probabilities, and no item that it was fitted on (Vovk et al. 2005; least
    ambiguous sets: Sadinle et al. 2019, arXiv:1609.00451). Of cross-fitted probabilities, where each item's come from a
    fit without it and the sets from one on all items, it is an approximation. With too few items for that rank it is
    1: every choice is in the set.
    """
    scores = np.sort(1.0 - np.asarray(probability_of_answer_N, dtype=np.float64))
    # Without rounding, (n + 1) * (1 - 0.1) may come out a hair above a whole number and skip a rank.
    rank = math.ceil(round((scores.size + 1) * (1.0 - alpha), 9))
    return float(scores[rank - 1]) if 1 <= rank <= scores.size else 1.0
