"""Who is asked first, and whether what they say is enough not to ask the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from ensemble.errors import QuorumError
from ensemble.voting.ballot import Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.strategy import Question, Strategy, Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPlan:
    """Members in the stages in which they are asked, the cheapest first; every member of the panel in one stage.

    ``rule`` says when the stages so far are enough. ``staged``: nothing still out could change the answer, or the
    confidence of those asked is at least ``min_confidence`` (in [0, 1]). ``cascade``: all ballots of those asked name
    one choice and there are at least two (agreement-based cascading, arXiv:2407.02348).
    """

    stages: tuple[tuple[str, ...], ...]
    rule: Literal["staged", "cascade"]
    min_confidence: float = 1.0


def is_enough(plan: AskPlan, question: Question, strategy: Strategy, votes: Iterable[Vote]) -> bool:
    """Say whether the votes of the completed stages suffice; ``question`` is the one put to the whole panel.

    Whoever has a vote in ``votes``, an abstention included, was asked. A decision with too little weight or too few
    families behind it is never enough, nor is one without a ballot.
    """
    votes = tuple(votes)
    asked = frozenset(vote.member for vote in votes)
    if plan.rule == "staged" and _count(question, strategy, votes).is_decided():
        return True
    decision = decide_stage(question, strategy, votes)
    if decision is None or decision.degraded:
        return False
    if plan.rule == "cascade":
        return _is_unanimous(decision)
    is_everyone = all(voter.member in asked for voter in question.panel)
    return is_everyone or (decision.confidence is not None and decision.confidence >= plan.min_confidence)


def decide_stage(question: Question, strategy: Strategy, votes: Iterable[Vote]) -> Decision | None:
    """Decide among those asked alone, whose votes are all given; None when none of them gave a ballot.

    The panel is those asked: the quorum is a share of their weight, and they are who the decision says was asked.
    """
    votes = tuple(votes)
    asked = frozenset(vote.member for vote in votes)
    panel = tuple(voter for voter in question.panel if voter.member in asked)
    cause = DecidedBy.ALL if len(panel) == len(question.panel) else DecidedBy.STAGE
    try:
        return _count(replace(question, panel=panel), strategy, votes).decide(cause)
    except QuorumError:
        return None


def _is_unanimous(decision: Decision) -> bool:
    choices = {ballot.choice for ballot in decision.ballots}
    return len(decision.ballots) >= 2 and len(choices) == 1 and None not in choices


def _count(question: Question, strategy: Strategy, votes: Iterable[Vote]) -> Tally:
    tally = strategy.open_tally(question)
    for vote in votes:
        tally = tally.add(vote)
    return tally
