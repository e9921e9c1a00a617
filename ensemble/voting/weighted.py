"""Rules that sum weights: majority, weighted vote, and soft vote (the linear pool)."""

from __future__ import annotations

from dataclasses import dataclass

from ensemble.errors import InvalidRequestError
from ensemble.voting.admission import admit_choice, admit_distribution, admit_short_answer
from ensemble.voting.ballot import Ballot
from ensemble.voting.exact import ONE, exact
from ensemble.voting.linear import LinearTally, open_scores
from ensemble.voting.strategy import Question, Task
from ensemble.voting.turnout import open_turnout


@dataclass(frozen=True, slots=True, kw_only=True)
class Majority:
    """Every ballot counts 1, whatever the member's weight, which speaks only in a tie."""

    name: str = "majority"
    tasks: frozenset[Task] = frozenset({Task.CHOICE, Task.SHORT_ANSWER})
    is_heavy: bool = False

    def open_tally(self, question: Question) -> LinearTally:
        """Start an empty count; ``min_weight`` is then a share of the panel's heads."""
        return _open_hard_tally(self.name, question, [1.0] * len(question.panel))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedVote:
    """Every ballot counts its member's weight (optimal for independent members: Nitzan & Paroush 1982)."""

    name: str = "weighted_vote"
    tasks: frozenset[Task] = frozenset({Task.CHOICE, Task.SHORT_ANSWER})
    is_heavy: bool = False

    def open_tally(self, question: Question) -> LinearTally:
        """Start an empty count."""
        return _open_hard_tally(self.name, question, [voter.weight for voter in question.panel])


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftVote:
    """Every ballot splits its member's weight over the choices by its probabilities."""

    name: str = "soft_vote"
    tasks: frozenset[Task] = frozenset({Task.CHOICE})
    is_heavy: bool = False

    def open_tally(self, question: Question) -> LinearTally:
        """Start an empty count."""
        if not question.choices:
            raise InvalidRequestError("choices", f"{self.name} needs some", "declare them, or ask for weighted_vote")
        return LinearTally(
            strategy=self.name,
            admit=admit_distribution,
            share=_split,
            turnout=open_turnout(question, [voter.weight for voter in question.panel]),
            scores=open_scores(question),
        )


def _open_hard_tally(strategy: str, question: Question, weights: list[float]) -> LinearTally:
    return LinearTally(
        strategy=strategy,
        admit=admit_choice if question.choices else admit_short_answer,
        share=_whole,
        turnout=open_turnout(question, weights),
        scores=open_scores(question),
    )


def _whole(ballot: Ballot, question: Question) -> dict[str, int]:  # noqa: ARG001  one shape for every rule
    return {} if ballot.choice is None else {ballot.choice: ONE}


def _split(ballot: Ballot, question: Question) -> dict[str, int]:
    # A probability may exceed 1 by rounding; above 1 it would move a gap by more than the member's weight.
    shares = (min(exact(probability), ONE) for probability in ballot.probabilities)
    return dict(zip(question.choices, shares, strict=True))
