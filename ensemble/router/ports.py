"""What the router needs from the world: members, the voting service, replicas, and somebody who keeps figures."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from ensemble.engines.engine import EngineStats
from ensemble.generation import (
    ChoiceScores,
    Completion,
    CompletionChunk,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    ScoringRequest,
)
from ensemble.router.replica_start import ReplicaStart
from ensemble.voting.ballot import Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.strategy import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaAddress:
    """Where one replica answers: ``address`` is ``host:port``."""

    replica_id: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """One replica's own counters, or, of one that is not up, where its ``start`` is."""

    replica_id: str
    stats: EngineStats
    start: ReplicaStart | None = None


class ReplicaPicker(Protocol):
    """Chooses a replica for one call."""

    async def pick(self) -> ReplicaAddress:
        """Choose a replica that is up, as far as is known; waits for one when there is none.

        Raises:
            MemberUnavailableError: the deployment is gone.
        """
        ...

    async def reports(self) -> tuple[ReplicaReport, ...]:
        """Ask every replica for its counters.

        Raises:
            MemberUnavailableError: they could not be asked.
        """
        ...


class MemberClient(Protocol):
    """Asks one member. Cancelling a call stops the request in the member's engine.

    Every method raises only: MemberTimeoutError (no answer within ``timeout_s``), MemberUnavailableError (no replica
    could be reached), MemberRefusedError (the prompt does not fit this member), MemberError (the engine failed).
    """

    async def score(self, request: ScoringRequest, *, timeout_s: float) -> ChoiceScores:
        """Get the choices' log-probabilities."""
        ...

    async def complete(self, request: GenerationRequest, *, timeout_s: float) -> Completion:
        """Get a whole completion."""
        ...

    def stream(self, request: GenerationRequest, *, timeout_s: float) -> AsyncGenerator[CompletionChunk]:
        """Get a completion piece by piece."""
        ...

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> Embeddings:
        """Get an embedding of each text."""
        ...

    async def reports(self, *, timeout_s: float) -> tuple[ReplicaReport, ...]:
        """Get the counters of every replica."""
        ...


class VotingClient(Protocol):
    """Lets the voting service decide."""

    async def decide(
        self, strategy: str, question: Question, votes: tuple[Vote, ...], *, decided_by: DecidedBy, timeout_s: float
    ) -> Decision:
        """Count ``votes``; panel members without one are late.

        Raises:
            QuorumError: no ballot was cast.
            VotingUnavailableError: the service could not be reached in time.
        """
        ...


class Observer(Protocol):
    """Keeps figures about requests; never sees prompts."""

    def observe_decision(self, ensemble: str, decision: Decision, *, latency_s: float) -> None:
        """Note a decided request: who was asked, used, stopped."""
        ...

    def observe_failure(self, ensemble: str, error: str) -> None:
        """Note a request that got no decision; ``error`` is the exception's class name."""
        ...
