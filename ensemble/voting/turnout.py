"""Who of the panel has voted, who is still out, and whether that is enough for a sound decision."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from ensemble.errors import InvalidRequestError, QuorumError
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote, Voter
from ensemble.voting.decision import DecidedBy
from ensemble.voting.exact import exact
from ensemble.voting.question_checks import check_calibration, check_panel, check_quorum
from ensemble.voting.strategy import Question

_LARGEST_WEIGHT = exact(sys.float_info.max)

# Sums that differ by at most the panel's weight over this are a tie: they differ by rounding of the weights.
TIES_PER_WEIGHT = 10**9

_SILENCE_BY_CAUSE = {
    DecidedBy.LOSSLESS_QUORUM: (AbstentionReason.CANCELLED, "the vote was decided before this member answered"),
    DecidedBy.RISK_QUORUM: (AbstentionReason.CANCELLED, "a certificate ended the vote before this member answered"),
    DecidedBy.STAGE: (AbstentionReason.CANCELLED, "the members asked before were agreed or sure enough"),
    DecidedBy.FIRST_TOKEN: (AbstentionReason.CANCELLED, "another member's text began first"),
    DecidedBy.DEADLINE: (AbstentionReason.DEADLINE, "time was up before this member answered"),
}


# Named tuples here and in linear.py, not dataclasses: they are made for every ballot, in half the time.
class Roll(NamedTuple):
    """What never changes during a vote: the question, and by member its exact weight and its own bit.

    ``everyone`` has all bits set. ``total_weight`` is the sum of all ``|weight|``, ``enough_weight`` what the quorum
    asks of it, and ``tolerance`` the widest gap between two sums that is a tie.
    """

    question: Question
    weights: Mapping[str, int]
    bits: Mapping[str, int]
    everyone: int
    total_weight: int
    enough_weight: int
    tolerance: int


class Entry(NamedTuple):
    """A vote, and the one that came before it: a list that is shared by all turnouts that grow from it."""

    vote: Vote
    earlier: Entry | None


class Turnout(NamedTuple):
    """The votes that are in, as a value, with exact weights (see exact.py), so that no order of arrival shows.

    Adding a vote costs the same however many are on the panel: nothing that is in is copied or counted again.
    """

    roll: Roll
    latest: Entry | None
    voted: int
    num_cast: int
    cast_weight: int
    """The sum of ``|weight|`` over the ballots cast."""
    waiting_weight: int
    """The sum of ``|weight|`` that is still out."""

    def add(self, vote: Vote) -> Turnout:
        """Note one member's vote.

        Raises:
            InvalidRequestError: the member is not on the panel or has voted already.
        """
        roll, member = self.roll, vote.member
        bit = roll.bits.get(member)
        if bit is None:
            panel = ", ".join(roll.weights)
            raise InvalidRequestError("ballots", f"{member!r} is not on the panel", f"only {panel} may vote")
        if self.voted & bit:
            raise InvalidRequestError("ballots", f"{member!r} has voted already", "send one vote a member")
        weight = abs(roll.weights[member])
        is_cast = isinstance(vote, Ballot)
        return Turnout(
            roll=roll,
            latest=Entry(vote=vote, earlier=self.latest),
            voted=self.voted | bit,
            num_cast=self.num_cast + is_cast,
            cast_weight=self.cast_weight + weight if is_cast else self.cast_weight,
            waiting_weight=self.waiting_weight - weight,
        )

    @property
    def question(self) -> Question:
        """What is voted on."""
        return self.roll.question

    @property
    def weights(self) -> Mapping[str, int]:
        """What every member's ballot counts for, in the panel's order."""
        return self.roll.weights

    @property
    def total_weight(self) -> int:
        """The sum of ``|weight|`` over the whole panel."""
        return self.roll.total_weight

    @property
    def tolerance(self) -> int:
        """The widest gap between two sums of weights that is a tie."""
        return self.roll.tolerance

    @property
    def votes(self) -> Mapping[str, Vote]:
        """The votes that are in by member, in the panel's order."""
        arrived = {vote.member: vote for vote in self._newest_first()}
        return {member: arrived[member] for member in self.roll.weights if member in arrived}

    def vote_of(self, member: str) -> Vote:
        """Give a member's vote; the one that came last is found at once.

        Raises:
            KeyError: the member is still out.
        """
        entry = self.latest
        while entry is not None:
            if entry.vote.member == member:
                return entry.vote
            entry = entry.earlier
        raise KeyError(member)

    @property
    def is_complete(self) -> bool:
        """Whether every member has voted or abstained."""
        return self.voted == self.roll.everyone

    @property
    def waiting(self) -> tuple[str, ...]:
        """Members who have neither voted nor abstained, in the panel's order."""
        if self.is_complete:
            return ()
        return tuple([member for member, bit in self.roll.bits.items() if not self.voted & bit])

    @property
    def ballots(self) -> tuple[Ballot, ...]:
        """The ballots cast, in the panel's order."""
        cast = {vote.member: vote for vote in self._newest_first() if isinstance(vote, Ballot)}
        return tuple([cast[member] for member in self.roll.weights if member in cast])

    @property
    def families(self) -> tuple[str, ...]:
        """Families with a ballot, in the panel's order."""
        return self.families_of([ballot.member for ballot in self.ballots])

    @property
    def has_failures(self) -> bool:
        """Whether a member abstained that was not stopped: one that was could still have voted."""
        if self.num_cast == self.voted.bit_count():
            return False
        silent = (vote for vote in self._newest_first() if isinstance(vote, Abstention))
        return any(abstention.reason is not AbstentionReason.CANCELLED for abstention in silent)

    @property
    def is_sound(self) -> bool:
        """Whether the ballots that are in meet the quorum; once true it stays true."""
        roll = self.roll
        if self.cast_weight < roll.enough_weight:
            return False
        min_families = roll.question.quorum.min_families
        return self.num_cast >= min_families and (min_families == 1 or len(self.families) >= min_families)

    @property
    def is_soundness_known(self) -> bool:
        """Whether the quorum is met already, or cannot be met even if everyone who is out casts a ballot."""
        if self.is_sound or self.cast_weight + self.waiting_weight < self.roll.enough_weight:
            return True
        possible = {*self.waiting, *(ballot.member for ballot in self.ballots)}
        return len(self.families_of(possible)) < self.question.quorum.min_families

    def abstentions(self, decided_by: DecidedBy) -> tuple[Abstention, ...]:
        """Who gave no ballot, in the panel's order; those still out are silent for what ended the vote."""
        if self.num_cast == len(self.roll.weights):
            return ()
        silent = {vote.member: vote for vote in self._newest_first() if isinstance(vote, Abstention)}
        for member in self.waiting:
            silent[member] = _silence(member, decided_by)
        return tuple(silent[member] for member in self.roll.weights if member in silent)

    def check_decidable(self, decided_by: DecidedBy, *, is_decided: bool, is_certified: bool = False) -> None:
        """Refuse a decision that nothing carries, or a cause that is not true.

        A deadline, a stage and a race are the caller's to know; what the votes themselves can say is held against them.

        Raises:
            QuorumError: no ballot was cast; the tally does not know the ensemble's name and leaves it empty.
            InvalidRequestError: members are out and the cause says that this does not matter, but it does.
        """
        match decided_by:
            case DecidedBy.ALL:
                is_true = self.is_complete
            case DecidedBy.LOSSLESS_QUORUM:
                is_true = is_decided
            case DecidedBy.RISK_QUORUM:
                is_true = is_certified
            case DecidedBy.STAGE | DecidedBy.FIRST_TOKEN | DecidedBy.DEADLINE:
                is_true = True
        if not is_true:
            out = ", ".join(self.waiting)
            problem = f"{decided_by} is not so: {out} can still change the decision" if out else "nobody is out"
            raise InvalidRequestError("decided_by", problem, "wait for them, or decide by deadline")
        if not self.num_cast:
            counts = Counter(abstention.reason for abstention in self.abstentions(decided_by))
            reasons = ", ".join(f"{counts[reason]} {reason}" for reason in AbstentionReason if counts[reason])
            raise QuorumError("", 0, len(self.roll.weights), reasons)

    def families_of(self, members: Iterable[str]) -> tuple[str, ...]:
        """The families of some members, in the panel's order."""
        chosen = frozenset(members)
        return tuple(dict.fromkeys([voter.family for voter in self.roll.question.panel if voter.member in chosen]))

    def _newest_first(self) -> list[Vote]:
        votes = []
        entry = self.latest
        while entry is not None:
            votes.append(entry.vote)
            entry = entry.earlier
        return votes


def open_turnout(question: Question, weights: Iterable[float]) -> Turnout:
    """Start with nobody's vote; ``weights`` say what each ballot counts for, in the panel's order.

    Raises:
        InvalidRequestError: the panel, the quorum or the calibration is not one that votes can be counted with.
    """
    quorum = question.quorum
    check_quorum(quorum)
    if question.calibration is not None:
        check_calibration(question.calibration, len(question.choices))
    scale = _weigh_panel(question.panel, tuple(weights))
    share, whole = quorum.min_weight.as_integer_ratio()
    roll = Roll(
        question=question,
        weights=scale.weights,
        bits=scale.bits,
        everyone=(1 << len(scale.bits)) - 1,
        total_weight=scale.total_weight,
        enough_weight=-(-scale.total_weight * share // whole) - scale.tolerance,
        tolerance=scale.tolerance,
    )
    return Turnout(roll=roll, latest=None, voted=0, num_cast=0, cast_weight=0, waiting_weight=scale.total_weight)


class _Scale(NamedTuple):
    """What a roll has of its panel, whatever is asked: one panel votes again and again."""

    weights: Mapping[str, int]
    bits: Mapping[str, int]
    total_weight: int
    tolerance: int


@lru_cache(maxsize=1024)
def _weigh_panel(panel: tuple[Voter, ...], weights: tuple[float, ...]) -> _Scale:
    members = [voter.member for voter in panel]
    check_panel(panel, members)
    exact_weights = [exact(weight) for weight in weights]
    total = sum(map(abs, exact_weights))
    if not 0 < total <= _LARGEST_WEIGHT:
        raise InvalidRequestError("panel", "its weights sum to 0 or overflow", "give a member a weight other than 0")
    return _Scale(
        weights=MappingProxyType(dict(zip(members, exact_weights, strict=True))),
        bits=MappingProxyType({member: 1 << n for n, member in enumerate(members)}),
        total_weight=total,
        tolerance=total // TIES_PER_WEIGHT,
    )


@lru_cache(maxsize=1024)  # one for every member and cause, since nothing else is in it
def _silence(member: str, decided_by: DecidedBy) -> Abstention:
    reason, detail = _SILENCE_BY_CAUSE[decided_by]
    return Abstention(member=member, reason=reason, detail=detail)
