"""Who of the panel has voted, who is still out, and whether that is enough for a sound decision."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ensemble.errors import InvalidRequestError, QuorumError
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote, Voter
from ensemble.voting.decision import DecidedBy
from ensemble.voting.exact import ONE, exact
from ensemble.voting.strategy import Question

# Sums that differ by at most the panel's weight over this are a tie: they differ by rounding of the weights.
TIES_PER_WEIGHT = 10**9

_SILENCE_BY_CAUSE = {
    DecidedBy.LOSSLESS_QUORUM: (AbstentionReason.CANCELLED, "the vote was decided before this member answered"),
    DecidedBy.DEADLINE: (AbstentionReason.DEADLINE, "time was up before this member answered"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turnout:
    """The votes that are in, as a value, with exact weights (see exact.py), so that no order of arrival shows.

    ``weights`` says by member, in the panel's order, what its ballot counts for; ``total_weight`` and ``tolerance``
    (the widest gap that is a tie) belong to the whole panel and never change.
    """

    question: Question
    weights: Mapping[str, int]
    total_weight: int
    tolerance: int
    votes: Mapping[str, Vote]

    def add(self, vote: Vote) -> Turnout:
        """Note one member's vote.

        Raises:
            InvalidRequestError: the member is not on the panel or has voted already.
        """
        if vote.member not in self.weights:
            panel = ", ".join(self.weights)
            raise InvalidRequestError("ballots", f"{vote.member!r} is not on the panel", f"only {panel} may vote")
        if vote.member in self.votes:
            raise InvalidRequestError("ballots", f"{vote.member!r} has voted already", "send one vote a member")
        return replace(self, votes={**self.votes, vote.member: vote})

    @property
    def waiting(self) -> tuple[str, ...]:
        """Members who have neither voted nor abstained, in the panel's order."""
        return tuple(member for member in self.weights if member not in self.votes)

    @property
    def ballots(self) -> tuple[Ballot, ...]:
        """The ballots cast, in the panel's order."""
        votes = (self.votes.get(member) for member in self.weights)
        return tuple(vote for vote in votes if isinstance(vote, Ballot))

    @property
    def cast_weight(self) -> int:
        """The sum of ``|weight|`` over the ballots cast."""
        return self._weigh(ballot.member for ballot in self.ballots)

    @property
    def waiting_weight(self) -> int:
        """The sum of ``|weight|`` that is still out."""
        return self._weigh(self.waiting)

    @property
    def families(self) -> tuple[str, ...]:
        """Families with a ballot, in the panel's order."""
        return self._families_of({ballot.member for ballot in self.ballots})

    @property
    def is_sound(self) -> bool:
        """Whether the ballots that are in meet the quorum; once true it stays true."""
        quorum = self.question.quorum
        return self._is_enough(self.cast_weight) and len(self.families) >= quorum.min_families

    @property
    def is_soundness_known(self) -> bool:
        """Whether the quorum is met already, or cannot be met even if everyone who is out casts a ballot."""
        possible = {ballot.member for ballot in self.ballots}.union(self.waiting)
        in_reach = (
            self._is_enough(self.cast_weight + self.waiting_weight)
            and len(self._families_of(possible)) >= self.question.quorum.min_families
        )
        return self.is_sound or not in_reach

    def abstentions(self, decided_by: DecidedBy) -> tuple[Abstention, ...]:
        """Who gave no ballot, in the panel's order; those still out are silent for what ended the vote."""
        votes = [self.votes.get(member) or _silence(member, decided_by) for member in self.weights]
        return tuple(vote for vote in votes if isinstance(vote, Abstention))

    def check_decidable(self, decided_by: DecidedBy, *, is_decided: bool) -> None:
        """Refuse a decision that nothing carries, or a cause that is not true.

        Raises:
            QuorumError: no ballot was cast; the tally does not know the ensemble's name and leaves it empty.
            InvalidRequestError: members are out and the cause says that this does not matter, but it does.
        """
        is_true = {DecidedBy.ALL: not self.waiting, DecidedBy.LOSSLESS_QUORUM: is_decided, DecidedBy.DEADLINE: True}
        if not is_true[decided_by]:
            problem = f"{decided_by} is not so: {', '.join(self.waiting)} can still change the decision"
            raise InvalidRequestError("decided_by", problem, "wait for them, or decide by deadline")
        if not self.ballots:
            counts = Counter(abstention.reason for abstention in self.abstentions(decided_by))
            reasons = ", ".join(f"{counts[reason]} {reason}" for reason in AbstentionReason if counts[reason])
            raise QuorumError("", 0, len(self.weights), reasons)

    def _weigh(self, members: Iterable[str]) -> int:
        return sum(abs(self.weights[member]) for member in members)

    def _is_enough(self, weight: int) -> bool:
        return (weight + self.tolerance) * ONE >= exact(self.question.quorum.min_weight) * self.total_weight

    def _families_of(self, members: Iterable[str]) -> tuple[str, ...]:
        chosen = frozenset(members)
        return tuple(dict.fromkeys(voter.family for voter in self.question.panel if voter.member in chosen))


def open_turnout(question: Question, weights: Iterable[float]) -> Turnout:
    """Start with nobody's vote; ``weights`` say what each ballot counts for, in the panel's order.

    Raises:
        InvalidRequestError: the panel or the quorum is not one that votes can be counted for.
    """
    _check_panel(question.panel)
    _check_quorum(question)
    weight_by_member = {voter.member: exact(weight) for voter, weight in zip(question.panel, weights, strict=True)}
    total = sum(map(abs, weight_by_member.values()))
    if not 0 < total <= exact(sys.float_info.max):
        raise InvalidRequestError("panel", "its weights sum to 0 or overflow", "give a member a weight other than 0")
    return Turnout(
        question=question,
        weights=weight_by_member,
        total_weight=total,
        tolerance=total // TIES_PER_WEIGHT,
        votes={},
    )


def _check_panel(panel: tuple[Voter, ...]) -> None:
    if not panel:
        raise InvalidRequestError("panel", "it has no members", "ask at least one")
    if len({voter.member for voter in panel}) < len(panel):
        raise InvalidRequestError("panel", "a member is on it twice", "name each member once")
    for voter in panel:
        if not math.isfinite(voter.weight):
            problem = f"the weight of {voter.member!r} is {voter.weight}"
            raise InvalidRequestError("panel", problem, "give a finite weight")


def _check_quorum(question: Question) -> None:
    quorum = question.quorum
    if not 0.0 <= quorum.min_weight <= 1.0:
        raise InvalidRequestError("quorum.min_weight", f"{quorum.min_weight} is not a share", "give one in [0, 1]")
    if quorum.min_families < 1:
        raise InvalidRequestError("quorum.min_families", f"{quorum.min_families} is below 1", "give 1 or more")


def _silence(member: str, decided_by: DecidedBy) -> Abstention:
    reason, detail = _SILENCE_BY_CAUSE[decided_by]
    return Abstention(member=member, reason=reason, detail=detail)
