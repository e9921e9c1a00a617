"""A voting service that remembers what it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from ensemble.voting.ballot import Ballot, Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.strategy import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class DecideCall:
    """One vote that the service was asked to decide."""

    strategy: str
    question: Question
    votes: tuple[Vote, ...]
    decided_by: DecidedBy
    timeout_s: float


@dataclass(slots=True, kw_only=True)
class FakeVotingClient:
    """A VotingClient that answers with the first ballot's text, or raises ``error``."""

    error: Exception | None = None
    is_degraded: bool = False
    calls: list[DecideCall] = field(default_factory=list)

    async def decide(
        self, strategy: str, question: Question, votes: tuple[Vote, ...], *, decided_by: DecidedBy, timeout_s: float
    ) -> Decision:
        """Decide for the first ballot."""
        self.calls.append(
            DecideCall(strategy=strategy, question=question, votes=votes, decided_by=decided_by, timeout_s=timeout_s)
        )
        if self.error is not None:
            raise self.error
        ballots = tuple(vote for vote in votes if isinstance(vote, Ballot))
        return Decision(
            answer=ballots[0].text or "",
            strategy=strategy,
            decided_by=decided_by,
            agreement=1.0,
            margin=1.0,
            confidence=None,
            degraded=self.is_degraded,
            num_asked=len(question.panel),
            families=(),
            candidates=(),
            ballots=ballots,
            abstentions=(),
        )
