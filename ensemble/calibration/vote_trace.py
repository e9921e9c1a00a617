"""One item's vote played through by the real tallies, for every way to ask and to stop at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ensemble.calibration.call_costs import Calls
from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.calibration.outcomes import VoteSetup, grade, question_of, votes_of
from ensemble.errors import QuorumError
from ensemble.voting.asking import decide_stage
from ensemble.voting.ballot import Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.registry import get_strategy
from ensemble.voting.strategy import Question, Strategy, Tally


class Run(NamedTuple):
    """What one way of asking and stopping came to on an item; ``score`` in [0, 1]."""

    score: float
    cost: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTrace:
    """What happens when the first stage is asked: what it comes to if that is enough, and what if it is not.

    ``is_decided``: nothing still out could change the answer, which ends the vote by either rule. ``confidence`` is
    that of the first stage's decision, -1 when it has none or may not stand alone (see voting/asking.py);
    ``is_unanimous`` says whether a cascade ends there.
    """

    first: Run
    both: Run
    is_decided: bool
    confidence: float
    is_unanimous: bool

    def staged(self, min_confidence: float) -> Run:
        """Give the run of the rule ``staged``."""
        return self.first if self.is_decided or self.confidence >= min_confidence else self.both

    def cascade(self) -> Run:
        """Give the run of the rule ``cascade``, which looks at agreement alone."""
        return self.first if self.is_decided or self.is_unanimous else self.both


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteTrace:
    """The runs with everyone asked at once, and those with the first 1, 2, ... members of the order asked first."""

    lossless: Run
    risk: Run
    stages: tuple[StageTrace, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ItemVote:
    item: LabelledItem
    question: Question
    strategy: Strategy
    votes: Mapping[str, Vote]
    calls: Calls

    def open(self) -> Tally:
        return self.strategy.open_tally(self.question)

    def score(self, decision: Decision | None) -> float:
        return grade(self.item, decision)[1]


def trace_vote(setup: VoteSetup, item: ItemVotes, calls: Calls, *, order: Sequence[str]) -> VoteTrace:
    """Play one item through; ``order`` has the panel's members as they would be asked, the cheapest first."""
    vote = _ItemVote(
        item=item.item,
        question=question_of(setup, item.item),
        strategy=get_strategy(setup.strategy),
        votes=votes_of(setup, item),
        calls=calls,
    )
    lossless, risk = _ask_together(vote, order)
    stages = tuple(_ask_first(vote, order[:size], order[size:], lossless.score) for size in range(1, len(order)))
    return VoteTrace(lossless=lossless, risk=risk, stages=stages)


def _ask_together(vote: _ItemVote, members: Sequence[str]) -> tuple[Run, Run]:
    """Ask everyone at once: the run with the lossless stop, and that with certificates too."""
    tally, risk = vote.open(), None
    elapsed_s = 0.0
    for member in vote.calls.arrivals(members):
        tally, elapsed_s = tally.add(vote.votes[member]), vote.calls.latency_by_member[member]
        if tally.is_decided():
            break
        if risk is None and tally.is_certified():
            score = vote.score(tally.decide(DecidedBy.RISK_QUORUM))
            risk = Run(score, vote.calls.spent(members, until_s=elapsed_s), elapsed_s)
    lossless = Run(vote.score(_decide(tally)), vote.calls.spent(members, until_s=elapsed_s), elapsed_s)
    return lossless, risk or lossless


def _ask_first(vote: _ItemVote, first: Sequence[str], rest: Sequence[str], full_score: float) -> StageTrace:
    """Ask in two stages; the second begins when the first is complete, and ends when the vote is decided."""
    tally, elapsed_s = _add_until_decided(vote, vote.open(), first)
    if tally.is_decided():
        run = Run(full_score, vote.calls.spent(first, until_s=elapsed_s), elapsed_s)
        return StageTrace(first=run, both=run, is_decided=True, confidence=-1.0, is_unanimous=False)
    decision = decide_stage(vote.question, vote.strategy, [vote.votes[member] for member in first])
    first_cost = vote.calls.spent(first)
    _, more_s = _add_until_decided(vote, tally, rest)
    may_stand = decision is not None and not decision.degraded
    return StageTrace(
        first=Run(vote.score(decision), first_cost, elapsed_s),
        both=Run(full_score, first_cost + vote.calls.spent(rest, until_s=more_s), elapsed_s + more_s),
        is_decided=False,
        confidence=decision.confidence if decision and may_stand and decision.confidence is not None else -1.0,
        is_unanimous=decision is not None and may_stand and _is_unanimous(decision),
    )


def _add_until_decided(vote: _ItemVote, tally: Tally, members: Sequence[str]) -> tuple[Tally, float]:
    """Add votes as they come in, until nothing can change; the time counts from the members' start."""
    elapsed_s = 0.0
    for member in vote.calls.arrivals(members):
        tally, elapsed_s = tally.add(vote.votes[member]), vote.calls.latency_by_member[member]
        if tally.is_decided():
            break
    return tally, elapsed_s


def _decide(tally: Tally) -> Decision | None:
    try:
        return tally.decide(DecidedBy.LOSSLESS_QUORUM if tally.waiting else DecidedBy.ALL)
    except QuorumError:
        return None


def _is_unanimous(decision: Decision) -> bool:
    choices = {ballot.choice for ballot in decision.ballots}
    return len(decision.ballots) >= 2 and len(choices) == 1 and None not in choices
