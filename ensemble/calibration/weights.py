"""What a member's ballot counts for: the log-odds of its accuracy against collisions, less for siblings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from ensemble.calibration.statistics import Floats, error_correlation

SHRINKAGE = 10.0
"""How many items' worth of the pooled accuracy every member starts with."""
_ABOVE_CHANCE = 0.01


def shrunk_accuracies(num_correct_M: ArrayLike, num_items_M: ArrayLike, *, chance: float) -> Floats:
    """Give p_i = (c_i + s * pooled) / (n_i + s), clipped to [chance + 0.01, 1 - 1 / (2 n_i)].

    ``chance`` is the accuracy of guessing, in [0, 1). A member without items has the pooled accuracy.
    """
    correct, items = np.asarray(num_correct_M, dtype=np.float64), np.asarray(num_items_M, dtype=np.float64)
    pooled = correct.sum() / max(items.sum(), 1.0)
    shrunk = (correct + SHRINKAGE * pooled) / (items + SHRINKAGE)
    highest = 1.0 - 1.0 / (2.0 * np.maximum(items, 1.0))
    return np.asarray(np.maximum(np.minimum(shrunk, highest), chance + _ABOVE_CHANCE), dtype=np.float64)


def collision_rate(choice_MN: ArrayLike, answer_N: ArrayLike, *, chance: float) -> float:
    """Give P(same wrong choice | both wrong) over all pairs of members, clipped to [1 / (K - 1), 1].

    Choices are indices, -1 for no ballot; K is 1 / ``chance``, the mean number of choices. Without any pair of wrong
    ballots it is the lower end: wrong answers that fall anywhere.
    """
    choices, answers = np.asarray(choice_MN), np.asarray(answer_N)
    lowest = lowest_collision(chance)
    num_wrong = num_same = 0
    for first, second in combinations(choices, 2):
        is_wrong = (first >= 0) & (second >= 0) & (first != answers) & (second != answers)
        num_wrong += int(is_wrong.sum())
        num_same += int((is_wrong & (first == second)).sum())
    return min(max(num_same / num_wrong, lowest), 1.0) if num_wrong else lowest


def lowest_collision(chance: float) -> float:
    """Give the collision of wrong answers that fall anywhere: 1 / (K - 1) with K = 1 / ``chance``."""
    return min(chance / (1.0 - chance), 1.0)


def log_odds_weights(accuracy_M: ArrayLike, *, collision: float, chance: float) -> Floats:
    """Give w_i = logit(p_i) - ln c, the optimal ln(p (K - 1) / (1 - p)) where c = 1 / (K - 1).

    (Nitzan & Paroush 1982; Grofman, Owen & Feld 1983.) No weight is below that of a member just above chance whose
    wrong answers fall anywhere: a member at chance or below, or one no better than the popular mistake, can break a tie
    and no more; it is never counted against its own vote, and a panel always has weight.
    """
    accuracy = np.asarray(accuracy_M, dtype=np.float64)
    weights = np.log(accuracy) - np.log1p(-accuracy) - np.log(collision)
    at_chance = chance + _ABOVE_CHANCE
    smallest = np.log(at_chance / (1.0 - at_chance)) - np.log(lowest_collision(chance))
    return np.asarray(np.maximum(weights, smallest), dtype=np.float64)


def family_error_correlations(is_correct_MN: ArrayLike, families: Sequence[str]) -> dict[str, float]:
    """Give by family of two or more the mean phi of its members' errors, clipped to [0, 1]; nan is no ballot."""
    phi_MM = error_correlation(is_correct_MN)
    correlations = {}
    for family in dict.fromkeys(families):
        siblings = [place for place, other in enumerate(families) if other == family]
        if pairs := [phi_MM[first, second] for first, second in combinations(siblings, 2)]:
            correlations[family] = min(max(float(np.mean(pairs)), 0.0), 1.0)
    return correlations


def family_discounts(families: Sequence[str], correlation_by_family: Mapping[str, float]) -> Floats:
    """Give every member's factor 1 / (1 + (g - 1) * rho), g being the members of its family on the panel."""
    return np.array(
        [1.0 / (1.0 + (families.count(family) - 1) * correlation_by_family.get(family, 0.0)) for family in families]
    )
