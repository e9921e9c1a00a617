"""Builds panels, questions and counted votes for the tests of voting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ensemble.voting import (
    Abstention,
    AbstentionReason,
    Ballot,
    DecidedBy,
    Decision,
    Question,
    Quorum,
    Tally,
    Vote,
    Voter,
    get_strategy,
)
from ensemble.voting.strategy import VoteCalibration

CHOICES = ("red", "green", "blue")


def build_question(
    weights: Sequence[float],
    choices: tuple[str, ...] = CHOICES,
    quorum: Quorum | None = None,
    *,
    families: Sequence[str] = (),
    calibration: VoteCalibration | None = None,
) -> Question:
    """Ask members m0, m1, ..., each its own family unless told otherwise."""
    names = families or [f"f{n}" for n in range(len(weights))]
    panel = tuple(
        Voter(member=f"m{n}", family=family, weight=weight)
        for n, (weight, family) in enumerate(zip(weights, names, strict=True))
    )
    return Question(panel=panel, quorum=quorum or Quorum(), choices=choices, calibration=calibration)


def count(strategy: str, question: Question, votes: Iterable[Vote]) -> Tally:
    """Add the votes one by one, in their order."""
    tally = get_strategy(strategy).open_tally(question)
    for vote in votes:
        tally = tally.add(vote)
    return tally


def decide(strategy: str, question: Question, votes: Iterable[Vote], decided_by: DecidedBy = DecidedBy.ALL) -> Decision:
    """Count the votes and decide."""
    return count(strategy, question, votes).decide(decided_by)


def hard(member: int, choice: str, logprob: float | None = None) -> Ballot:
    """Vote for one declared choice."""
    return Ballot(member=f"m{member}", choice=choice, logprob=logprob)


def soft(member: int, *probabilities: float) -> Ballot:
    """Vote by probabilities alone."""
    return Ballot(member=f"m{member}", probabilities=probabilities)


def text(member: int, completion: str, logprob: float | None = None) -> Ballot:
    """Vote by a text."""
    return Ballot(member=f"m{member}", text=completion, logprob=logprob)


def silent(member: int, reason: AbstentionReason = AbstentionReason.ERROR) -> Abstention:
    """Abstain."""
    return Abstention(member=f"m{member}", reason=reason)
