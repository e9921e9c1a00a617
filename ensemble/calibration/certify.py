"""Which partial votes may end the vote, because on labelled items the full panel hardly ever answered otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.calibration.statistics import Bools, Floats, upper_bound
from ensemble.voting.strategy import Certificate

MAX_MEMBERS = 10
"""Larger panels get no certificates: they have more partial votes than any data could speak for."""
NO_BALLOT = -1
TIED = -2
_MAX_STEPS = 12
_TIE = 1e-6
# A margin is computed here and in the tally by different arithmetic.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSums:
    """Everything that partial votes need; axes as in vote_arrays.py.

    ``parts_NMK`` is what each member's ballot adds to the sums, ``prior_K`` what they start with, ``reach_N`` and
    ``weight_M`` make a lead a margin. ``full_answer_N`` is the full panel's answer as a candidate's place, NO_BALLOT
    where nobody voted, and TIED where a tie rule decided, which counts as an answer other than any leader.
    """

    members: tuple[str, ...]
    parts_NMK: Floats
    prior_K: Floats
    weight_M: Floats
    reach_N: Floats
    is_candidate_NK: Bools
    choice_NM: NDArray[np.intp]
    full_answer_N: NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    """Items on which the same members, and no others, had voted, and the same of them for the leader."""

    backers: frozenset[str]
    others: frozenset[str]
    is_item_N: Bools
    margin_N: Floats
    is_other_answer_N: Bools


def certify(panel: PanelSums, *, delta: float) -> tuple[Certificate, ...]:
    """Give a certificate for every partial vote that may stop the vote at disagreement ``delta``.

    Every labelled item is looked at as if only a subset of its ballots were in, for all subsets. Partial votes with
    the same backers and others are one pattern; its margin thresholds are tested from the largest down (fixed-sequence
    testing: Bauer 1991; Angelopoulos et al. 2021, arXiv:2110.01052), starting where there are enough items to pass at
    all, and the last that passes is kept. Each certificate holds with 95 % confidence by itself, for items like these.
    Small subsets go first, and what a certificate of a part of the subset may have ended is not counted again: easy
    votes end early, so those that reach a larger subset are harder than all that look like it. Ties certify nothing.
    """
    if len(panel.members) > MAX_MEMBERS:
        return ()
    certificates: list[Certificate] = []
    ended_by_subset: dict[frozenset[str], Bools] = {}
    for pattern in _patterns(panel):
        voted = pattern.backers | pattern.others
        is_ended_N = np.zeros(len(panel.full_answer_N), dtype=bool)
        for subset, is_ended_there_N in ended_by_subset.items():
            if subset < voted:
                is_ended_N |= is_ended_there_N
        if certificate := _certify_pattern(pattern, ~is_ended_N, delta):
            certificates.append(certificate)
            is_certified_N = pattern.is_item_N & (pattern.margin_N >= certificate.min_margin)
            ended_by_subset[voted] = ended_by_subset.get(voted, False) | is_certified_N
    return tuple(certificates)


def min_items(delta: float) -> int:
    """Give how many items without a disagreement it takes for a bound of at most ``delta``."""
    size = max(int(np.floor(np.log(0.05) / np.log1p(-delta))), 1)
    return next(number for number in itertools.count(size) if upper_bound(0, number) <= delta)


def _certify_pattern(pattern: _Pattern, is_open_N: Bools, delta: float) -> Certificate | None:
    places = np.flatnonzero(pattern.is_item_N & is_open_N)
    places = places[np.argsort(-pattern.margin_N[places], kind="stable")]
    margins = pattern.margin_N[places]
    num_disagreements = np.cumsum(pattern.is_other_answer_N[places])
    passed = None
    for size in _prefixes(margins, min_items(delta)):
        disagreements = int(num_disagreements[size - 1])
        bound = upper_bound(disagreements, size)
        if bound > delta:
            break
        passed = Certificate(
            backers=pattern.backers,
            others=pattern.others,
            min_margin=max(float(margins[size - 1]) - _ROUNDING, 0.0),
            num_items=size,
            num_disagreements=disagreements,
            bound=bound,
        )
    return passed


def _prefixes(margins: Floats, smallest: int) -> list[int]:
    """Give the numbers of items to test at, each with all items of its last margin; they depend on margins alone."""
    if len(margins) < smallest:
        return []
    sizes = np.geomspace(smallest, len(margins), _MAX_STEPS).round().astype(int)
    ends = {int(np.searchsorted(-margins, -margins[size - 1], side="right")) for size in sizes}
    return sorted(ends)


def _patterns(panel: PanelSums) -> Iterator[_Pattern]:
    places = range(len(panel.members))
    for size in range(1, len(panel.members)):
        for subset in itertools.combinations(places, size):
            yield from _patterns_of(panel, list(subset))


def _patterns_of(panel: PanelSums, subset: list[int]) -> Iterator[_Pattern]:
    is_in_N = (panel.choice_NM[:, subset] >= 0).all(axis=1) & (panel.full_answer_N != NO_BALLOT)
    sums_NK = np.where(panel.is_candidate_NK, panel.parts_NMK[:, subset].sum(axis=1) + panel.prior_K, -np.inf)
    leader_N = sums_NK.argmax(axis=1)
    second_N, first_N = np.partition(sums_NK, -2, axis=1)[:, -2:].T
    scale_N = panel.reach_N * np.abs(panel.weight_M[subset]).sum()
    margin_N = np.minimum((first_N - second_N) / np.where(scale_N > 0.0, scale_N, np.inf), 1.0)
    is_in_N &= margin_N > _TIE
    is_backer_NS = panel.choice_NM[:, subset] == leader_N[:, None]
    codes_N = is_backer_NS @ (1 << np.arange(len(subset)))
    for code in np.unique(codes_N[is_in_N]):
        is_alike_N = is_in_N & (codes_N == code)
        backs = [bool(int(code) >> place & 1) for place in range(len(subset))]
        yield _Pattern(
            backers=frozenset(
                panel.members[place] for place, is_backer in zip(subset, backs, strict=True) if is_backer
            ),
            others=frozenset(
                panel.members[place] for place, is_backer in zip(subset, backs, strict=True) if not is_backer
            ),
            is_item_N=is_alike_N,
            margin_N=margin_N,
            is_other_answer_N=leader_N != panel.full_answer_N,
        )
