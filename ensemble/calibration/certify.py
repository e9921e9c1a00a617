"""Which partial votes may end the vote, because on labelled items the full panel hardly ever answered otherwise."""

from __future__ import annotations

import itertools

import numpy as np

from ensemble.calibration.partial_votes import PanelSums, Pattern, list_patterns
from ensemble.calibration.statistics import Bools, Floats, upper_bound
from ensemble.voting.strategy import Certificate

MAX_MEMBERS = 10
"""Larger panels get no certificates: they have more partial votes than any data could speak for."""
_MAX_STEPS = 12
# A margin is computed here and in the tally by different arithmetic.
_ROUNDING = 1e-9


def certify(panel: PanelSums, *, delta: float) -> tuple[Certificate, ...]:
    """Give a certificate for every partial vote that may stop the vote at disagreement ``delta``.

    A partial vote is who is in, and who of them backs the leader. A certificate bounds the share of the votes that it
    stops which the full panel answers otherwise, for items like these and any order of arrival that does not depend
    on the item. Its bound is the Clopper-Pearson limit over U:

    - D, the items that it could stop in some order and that the full panel answers otherwise, all count as hits;
    - O, the items that it stops in every order, are those that no certificate of a part of the same members can have
      ended before, and U is all of D and O.

    In any one order it stops O, some of D, and perhaps more that agree, so the share of D among them is at most the
    one that D has in U. What the lossless stop ends is in neither.

    Margin thresholds of a partial vote are tested from the largest down (fixed-sequence testing: Bauer 1991;
    Angelopoulos et al. 2021, arXiv:2110.01052), starting where there are enough items to pass at all, and the last that
    passes is kept. Each certificate holds with 95 % confidence by itself.
    """
    if len(panel.members) > MAX_MEMBERS:
        return ()
    certificates: list[Certificate] = []
    ended_by_voted: dict[frozenset[str], Bools] = {}
    for pattern in list_patterns(panel):
        is_ended_N = np.zeros(len(panel.full_answer_N), dtype=bool)
        for voted, is_ended_there_N in ended_by_voted.items():
            if voted < pattern.voted:
                is_ended_N |= is_ended_there_N
        if certificate := _certify_pattern(pattern, ~is_ended_N, delta):
            certificates.append(certificate)
            is_certified_N = pattern.is_item_N & (pattern.margin_N >= certificate.min_margin)
            ended_by_voted[pattern.voted] = ended_by_voted.get(pattern.voted, False) | is_certified_N
    return tuple(certificates)


def min_items(delta: float) -> int:
    """Give how many items without a disagreement it takes for a bound of at most ``delta``."""
    size = max(int(np.floor(np.log(0.05) / np.log1p(-delta))), 1)
    return next(number for number in itertools.count(size) if upper_bound(0, number) <= delta)


def _certify_pattern(pattern: Pattern, is_open_N: Bools, delta: float) -> Certificate | None:
    is_stopped_N = pattern.is_item_N & is_open_N
    is_hit_N = pattern.is_item_N & pattern.is_other_answer_N
    passed = None
    for margin in _thresholds(pattern.margin_N[is_stopped_N], min_items(delta)):
        min_margin = max(margin - _ROUNDING, 0.0)
        is_reached_N = pattern.margin_N >= min_margin
        num_items = int(np.sum(is_reached_N & (is_stopped_N | is_hit_N)))
        num_disagreements = int(np.sum(is_reached_N & is_hit_N))
        bound = upper_bound(num_disagreements, num_items)
        if bound > delta:
            break
        passed = Certificate(
            backers=pattern.backers,
            others=pattern.others,
            min_margin=min_margin,
            num_items=num_items,
            num_disagreements=num_disagreements,
            bound=bound,
        )
    return passed


def _thresholds(margin_N: Floats, smallest: int) -> list[float]:
    """Give the margins to test at, the largest first; they depend on margins alone, and not on answers."""
    if len(margin_N) < smallest:
        return []
    descending = np.sort(margin_N)[::-1]
    sizes = np.geomspace(smallest, len(margin_N), _MAX_STEPS).round().astype(int)
    return sorted({float(descending[size - 1]) for size in sizes}, reverse=True)
