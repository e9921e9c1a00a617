"""What the tally sees of labelled items when some of the panel have voted and the others are still out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.calibration.statistics import Bools, Floats
from ensemble.voting.turnout import TIES_PER_WEIGHT

NO_BALLOT = -1
TIED = -2
_TIE = 1e-6
"""Margins up to it are ties here. It is wider than the tally's, whose arithmetic is exact."""


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
class Pattern:
    """Items on which ``backers`` voted for the leader, ``others`` for somebody else, and the rest of the panel is out.

    ``is_item_N`` has those on which a certificate may be asked: everyone named cast a ballot, nobody is tied with the
    leader, and votes still out could change the answer. Where they could not, the lossless stop ends the vote, here or
    earlier, in every order of arrival: a lead that is safe stays so, whoever votes next.
    """

    backers: frozenset[str]
    others: frozenset[str]
    is_item_N: Bools
    margin_N: Floats
    is_other_answer_N: Bools

    @property
    def voted(self) -> frozenset[str]:
        """Those who are in."""
        return self.backers | self.others


def list_patterns(panel: PanelSums) -> Iterator[Pattern]:
    """Look at every item as if only a subset of its ballots were in, for all subsets, the smallest first."""
    places = range(len(panel.members))
    for size in range(1, len(panel.members)):
        for subset in itertools.combinations(places, size):
            yield from _patterns_of(panel, list(subset))


def _patterns_of(panel: PanelSums, subset: list[int]) -> Iterator[Pattern]:
    sums_NK = np.where(panel.is_candidate_NK, panel.parts_NMK[:, subset].sum(axis=1) + panel.prior_K, -np.inf)
    leader_N = sums_NK.argmax(axis=1)
    second_N, first_N = np.partition(sums_NK, -2, axis=1)[:, -2:].T
    total, cast = np.abs(panel.weight_M).sum(), np.abs(panel.weight_M[subset]).sum()
    scale_N = panel.reach_N * cast
    margin_N = np.minimum((first_N - second_N) / np.where(scale_N > 0.0, scale_N, np.inf), 1.0)
    tolerance = total / TIES_PER_WEIGHT
    is_in_N = (panel.choice_NM[:, subset] >= 0).all(axis=1) & (panel.full_answer_N != NO_BALLOT)
    # Members of next to no weight: the tally may see a tie where there is a margin.
    is_in_N &= (margin_N > _TIE) & (_TIE * scale_N > tolerance)
    is_in_N &= first_N - second_N <= panel.reach_N * (total - cast) + tolerance
    is_backer_NS = panel.choice_NM[:, subset] == leader_N[:, None]
    codes_N = is_backer_NS @ (1 << np.arange(len(subset)))
    for code in np.unique(codes_N[is_in_N]):
        sides: tuple[set[str], set[str]] = (set(), set())
        for bit, place in enumerate(subset):
            sides[int(code) >> bit & 1].add(panel.members[place])
        yield Pattern(
            backers=frozenset(sides[1]),
            others=frozenset(sides[0]),
            is_item_N=is_in_N & (codes_N == code),
            margin_N=margin_N,
            is_other_answer_N=leader_N != panel.full_answer_N,
        )
