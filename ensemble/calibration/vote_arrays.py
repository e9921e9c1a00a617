"""Labelled votes as arrays.

Axes: N items, M members of the panel, K candidates of an item (as many as the item with the most has). Where the
labels are fixed, every item's candidates stand in one order. A short answer's candidates are the answers given, and
last the one that nobody gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ensemble.calibration.items import ItemVotes
from ensemble.calibration.outcomes import VoteSetup, question_of, reference_answer, votes_of
from ensemble.calibration.statistics import Bools, Floats
from ensemble.voting.ballot import Ballot, Vote, Voter
from ensemble.voting.calibrated import FLOOR, MemberCalibration
from ensemble.voting.registry import get_strategy
from ensemble.voting.short_answer import AnswerRule

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteArrays:
    """What the panel said on labelled items.

    ``choice_NM`` is -1 where there is no ballot, and ``log_probability_NMK`` 0 where there is no ballot or candidate;
    it means something only if ``has_probabilities``: every ballot came with one probability a choice. ``labels`` are
    the choices in the candidates' order if all items have the same ones, else empty.
    """

    members: tuple[str, ...]
    families: tuple[str, ...]
    labels: tuple[str, ...]
    is_candidate_NK: Bools
    answer_N: Indices
    choice_NM: Indices
    log_probability_NMK: Floats
    has_probabilities: bool
    has_choices: bool

    @property
    def has_ballot_NM(self) -> Bools:
        """Who gave a ballot on what."""
        return self.choice_NM >= 0

    @property
    def chance(self) -> float:
        """The accuracy of guessing among declared choices; 0.01 for short answers, as if there were a hundred."""
        if not self.has_choices:
            return 0.01
        return float(np.mean(1.0 / self.is_candidate_NK.sum(axis=1)))

    @property
    def is_correct_MN(self) -> Floats:
        """1 for right, 0 for wrong, nan for no ballot."""
        right_NM = (self.choice_NM == self.answer_N[:, None]).astype(np.float64)
        return np.where(self.has_ballot_NM, right_NM, np.nan).T

    def take(self, places: Indices) -> VoteArrays:
        """Give some of the items."""
        return replace(
            self,
            is_candidate_NK=self.is_candidate_NK[places],
            answer_N=self.answer_N[places],
            choice_NM=self.choice_NM[places],
            log_probability_NMK=self.log_probability_NMK[places],
        )

    def correct(self, calibrations: Sequence[MemberCalibration]) -> VoteArrays:
        """Apply the members' corrections, as ``calibrate_ballot`` does; hard ballots stay as they are."""
        if not self.has_probabilities:
            return self
        log_probability, choices = np.zeros_like(self.log_probability_NMK), self.choice_NM.copy()
        for place, calibration in enumerate(calibrations):
            bias_K = np.array([calibration.bias_by_label.get(label, 0.0) for label in self.labels] or [0.0])
            logits = (self.log_probability_NMK[:, place] + bias_K) / calibration.temperature
            logits = np.where(self.is_candidate_NK, logits, -np.inf)
            shifted = logits - logits.max(axis=1, keepdims=True)
            normalised = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            is_cast = self.has_ballot_NM[:, place]
            log_probability[:, place] = np.where(self.is_candidate_NK & is_cast[:, None], normalised, 0.0)
            choices[:, place] = np.where(is_cast, logits.argmax(axis=1), -1)
        return replace(self, log_probability_NMK=log_probability, choice_NM=choices)


def build_arrays(items: Sequence[ItemVotes], voters: Sequence[Voter], *, answer_rule: AnswerRule) -> VoteArrays:
    """Read labelled votes, exactly as a tally counts them, into arrays; items are all of one kind."""
    has_choices = bool(items[0].item.choices)
    setup = VoteSetup(strategy="weighted_vote", panel=tuple(voters), answer_rule=answer_rule)
    votes_by_item = [_counted_votes(setup, item) for item in items]
    labels = _fixed_labels(items)
    candidates_by_item = [
        labels or item.item.choices or _given_answers(votes) for item, votes in zip(items, votes_by_item, strict=True)
    ]
    size = max(len(candidates) for candidates in candidates_by_item) + (0 if has_choices else 1)
    shape = (len(items), len(voters))
    answer = np.zeros(len(items), dtype=np.intp)
    choice = np.full(shape, -1, dtype=np.intp)
    log_probability = np.zeros((*shape, size))
    is_candidate = np.zeros((len(items), size), dtype=bool)
    has_probabilities = has_choices
    for row, (item, votes) in enumerate(zip(items, votes_by_item, strict=True)):
        places = {candidate: place for place, candidate in enumerate(candidates_by_item[row])}
        is_candidate[row, : len(places) + (0 if has_choices else 1)] = True
        answer[row] = places.get(reference_answer(item.item), len(places))
        for column, voter in enumerate(voters):
            vote = votes[voter.member]
            if not isinstance(vote, Ballot) or vote.choice is None:
                continue
            choice[row, column] = places[vote.choice]
            if vote.probabilities:
                order = [places[name] for name in item.item.choices]
                log_probability[row, column, order] = np.log(np.maximum(vote.probabilities, FLOOR))
            else:
                has_probabilities = False
    return VoteArrays(
        members=tuple(voter.member for voter in voters),
        families=tuple(voter.family for voter in voters),
        labels=labels,
        is_candidate_NK=is_candidate,
        answer_N=answer,
        choice_NM=choice,
        log_probability_NMK=log_probability,
        has_probabilities=has_probabilities,
        has_choices=has_choices,
    )


def _counted_votes(setup: VoteSetup, item: ItemVotes) -> Mapping[str, Vote]:
    tally = get_strategy(setup.strategy).open_tally(question_of(setup, item.item))
    votes = votes_of(setup, item)
    for vote in votes.values():
        tally = tally.add(vote)
    return {member: tally.vote_of(member) for member in votes}


def _fixed_labels(items: Sequence[ItemVotes]) -> tuple[str, ...]:
    first = items[0].item.choices
    return first if all(set(item.item.choices) == set(first) for item in items) else ()


def _given_answers(votes: Mapping[str, Vote]) -> tuple[str, ...]:
    given = {vote.choice for vote in votes.values() if isinstance(vote, Ballot) and vote.choice is not None}
    return tuple(sorted(given))
