"""What a voting rule makes of stored votes: answers, whether they are right, and what an early stop saves."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.errors import QuorumError
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote, Voter
from ensemble.voting.calibrated import EnsembleCalibration, build_question, calibrate_ballot
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.mbr import build_chrf
from ensemble.voting.registry import get_strategy
from ensemble.voting.short_answer import AnswerRule, normalise_answer
from ensemble.voting.strategy import Question, Quorum, Tally, Task

SURE = (0.5, 0.7, 0.9)
"""Confidences at which it is told how many answers are at least so sure."""
_NO_QUORUM = Quorum(min_weight=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteSetup:
    """How votes are counted: the strategy's name, the panel, and a calibration or None.

    Members with votes that are not on the panel are left out; a member of the panel without a stored vote abstains.
    """

    strategy: str
    panel: tuple[Voter, ...]
    calibration: EnsembleCalibration | None = None
    quorum: Quorum = _NO_QUORUM
    answer_rule: AnswerRule = AnswerRule()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the vote on one item came to.

    ``decision`` is None when nobody gave a ballot; that is wrong, with score 0. ``score`` in [0, 1] is 1 or 0 for
    choices and short answers, chrF2 against the reference for free texts. ``members_used`` gave a vote before the
    vote ended, in the order of arrival.
    """

    item_id: str
    decision: Decision | None
    is_correct: bool
    score: float
    members_used: tuple[str, ...]

    @property
    def answer(self) -> str | None:
        """The answer, or None without one."""
        return self.decision.answer if self.decision else None

    @property
    def confidence(self) -> float | None:
        """The calibrated confidence, or None when nothing was calibrated."""
        return self.decision.confidence if self.decision else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopFigures:
    """What ending votes early came to, against the full panel on the same items.

    ``num_votes_used`` of ``num_votes`` were waited for. ``num_stops`` items ended before everyone's vote was in, and
    ``num_disagreements`` of them with another answer. ``accuracy`` and ``full_accuracy`` are mean scores.
    """

    num_items: int
    num_stops: int
    num_disagreements: int
    num_votes: int
    num_votes_used: int
    accuracy: float
    full_accuracy: float

    @property
    def saving(self) -> float:
        """The share of votes that need not have been waited for, in [0, 1]."""
        return 1.0 - self.num_votes_used / self.num_votes if self.num_votes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SureAnswers:
    """The answers that are at least so sure: their share of the items, and the share of them that is right.

    ``accuracy`` is None where there are none.
    """

    min_confidence: float
    share: float
    accuracy: float | None


def question_of(setup: VoteSetup, item: LabelledItem) -> Question:
    """Give the question that the server would ask about an item."""
    return build_question(
        setup.calibration,
        setup.strategy,
        setup.panel,
        quorum=setup.quorum,
        choices=item.choices,
        answer_rule=setup.answer_rule,
    )


def votes_of(setup: VoteSetup, item: ItemVotes) -> dict[str, Vote]:
    """Give the panel's votes by member, in the panel's order, corrected as the server does before it counts."""
    stored = {vote.member: vote for vote in item.votes}
    votes: dict[str, Vote] = {}
    for voter in setup.panel:
        vote = stored.get(voter.member) or Abstention(
            member=voter.member, reason=AbstentionReason.ERROR, detail="no vote was stored for this item"
        )
        if (
            setup.calibration
            and item.item.choices
            and isinstance(vote, Ballot)
            and voter.member in setup.calibration.by_member
        ):
            vote = calibrate_ballot(vote, item.item.choices, setup.calibration.by_member[voter.member])
        votes[voter.member] = vote
    return votes


def decide_item(setup: VoteSetup, item: ItemVotes) -> Outcome:
    """Count every vote on an item."""
    votes = votes_of(setup, item)
    tally = get_strategy(setup.strategy).open_tally(question_of(setup, item.item))
    for vote in votes.values():
        tally = tally.add(vote)
    return _outcome(item.item, tally, tuple(votes), DecidedBy.ALL)


def decide_items(setup: VoteSetup, items: Sequence[ItemVotes]) -> tuple[Outcome, ...]:
    """Count every vote on every item, in the items' order."""
    return tuple(decide_item(setup, item) for item in items)


def stop_item(setup: VoteSetup, item: ItemVotes, arrivals: Sequence[str], *, with_risk: bool = False) -> Outcome:
    """Count votes in an order of arrival until the vote is decided, or (``with_risk``) certified."""
    votes = votes_of(setup, item)
    tally = get_strategy(setup.strategy).open_tally(question_of(setup, item.item))
    for place, member in enumerate(arrivals, start=1):
        tally = tally.add(votes[member])
        used = tuple(arrivals[:place])
        if not tally.waiting:
            return _outcome(item.item, tally, used, DecidedBy.ALL)
        if tally.num_cast and tally.is_decided():
            return _outcome(item.item, tally, used, DecidedBy.LOSSLESS_QUORUM)
        if with_risk and tally.is_certified():
            return _outcome(item.item, tally, used, DecidedBy.RISK_QUORUM)
    return _outcome(item.item, tally, tuple(arrivals), DecidedBy.DEADLINE)


def latency_arrivals(item: ItemVotes) -> tuple[str, ...]:
    """Order members by their stored latency on the item; equal ones by name."""
    return tuple(vote.member for vote in sorted(item.votes, key=lambda vote: (vote.latency_s, vote.member)))


def random_arrivals(item: ItemVotes, *, seed: int = 0) -> tuple[str, ...]:
    """Order members at random, the same for one seed and item id on every machine."""

    def draw(member: str) -> bytes:
        return hashlib.sha256(f"{seed}\n{item.item.item_id}\n{member}".encode()).digest()

    return tuple(sorted((vote.member for vote in item.votes), key=draw))


def compare_stops(full: Sequence[Outcome], stopped: Sequence[Outcome], *, num_members: int) -> StopFigures:
    """Sum up what stopping early saved and changed; both sequences are about the same items."""
    size = max(len(full), 1)
    return StopFigures(
        num_items=len(full),
        num_stops=sum(len(outcome.members_used) < num_members for outcome in stopped),
        num_disagreements=sum(one.answer != other.answer for one, other in zip(full, stopped, strict=True)),
        num_votes=num_members * len(full),
        num_votes_used=sum(len(outcome.members_used) for outcome in stopped),
        accuracy=math.fsum(outcome.score for outcome in stopped) / size,
        full_accuracy=math.fsum(outcome.score for outcome in full) / size,
    )


def sure_answers(outcomes: Sequence[Outcome], *, withhold_below: float = 0.0) -> tuple[SureAnswers, ...]:
    """Say what is left when less sure answers are withheld: at ``withhold_below`` where it is set, and at SURE."""
    thresholds = sorted({*SURE, withhold_below} - {0.0})
    figures = []
    for threshold in thresholds:
        sure = [one for one in outcomes if one.confidence is not None and one.confidence >= threshold]
        figures.append(
            SureAnswers(
                min_confidence=threshold,
                share=len(sure) / max(len(outcomes), 1),
                accuracy=sum(one.is_correct for one in sure) / len(sure) if sure else None,
            )
        )
    return tuple(figures)


def grade(item: LabelledItem, decision: Decision | None) -> tuple[bool, float]:
    """Say whether an answer is right, and its score: chrF2 against the reference for free texts, else 1 or 0.

    An answer without choices is right when it is the reference after normalisation, whatever the task.
    """
    if decision is None:
        return False, 0.0
    if item.choices:
        is_correct = decision.answer == reference_answer(item)
        return is_correct, float(is_correct)
    is_correct = normalise_answer(decision.answer) == reference_answer(item)
    if Task.FREE_TEXT in get_strategy(decision.strategy).tasks:
        return is_correct, _chrf()(decision.answer, item.reference or "")
    return is_correct, float(is_correct)


def reference_answer(item: LabelledItem) -> str:
    """Give the right answer in the spelling in which a vote gives it: the choice, or the reference normalised."""
    if item.choices and item.answer is not None:
        return item.choices[item.answer]
    return normalise_answer(item.reference or "")


@functools.cache
def _chrf() -> Callable[[str, str], float]:
    return build_chrf()


def _outcome(item: LabelledItem, tally: Tally, used: tuple[str, ...], decided_by: DecidedBy) -> Outcome:
    try:
        decision = tally.decide(decided_by)
    except QuorumError:
        decision = None
    is_correct, score = grade(item, decision)
    return Outcome(item_id=item.item_id, decision=decision, is_correct=is_correct, score=score, members_used=used)
