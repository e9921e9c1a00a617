"""MemberService over an engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from ensemble.engines.engine import Engine
from ensemble.errors import DefectError, EnsembleError, MemberError, MemberTimeoutError
from ensemble.generation import ChoiceScores
from ensemble.rpc.convert_member import (
    chunk_to_wire,
    embedding_request_from_wire,
    embeddings_to_wire,
    generation_request_from_wire,
    scores_to_wire,
    scoring_request_from_wire,
    stats_to_wire,
)
from ensemble.v1 import member_service_pb2

if TYPE_CHECKING:
    from ensemble.rpc.methods import Context

log = logging.getLogger(__name__)

REPLY_SHARE = 0.1
"""Of the time that a call with many scorings has: kept for the way back."""
LONGEST_REPLY_S = 1.0
"""That share is never longer. A busy machine takes some of it, and what comes late is asked for again as a whole."""


class MemberServicer:
    """Serves one engine. A cancelled call cancels its task, and with it the engine's request."""

    def __init__(self, member: str, engine: Engine) -> None:
        self._member = member
        self._engine = engine

    async def Complete(  # noqa: N802 - gRPC's name
        self, request: member_service_pb2.CompleteRequest, context: Context
    ) -> member_service_pb2.CompleteResponse:
        """Complete a prompt."""
        pieces: list[str] = []
        wanted = generation_request_from_wire(request, is_streamed=False)
        async with aclosing(self._engine.generate(wanted)) as chunks:
            async for chunk in chunks:
                pieces.append(chunk.text)
                if chunk.finish_reason is not None:
                    return chunk_to_wire(chunk, "".join(pieces))
        raise MemberError(self._member, "its engine ended a completion without a reason")

    async def StreamComplete(  # noqa: N802 - gRPC's name
        self, request: member_service_pb2.StreamCompleteRequest, context: Context
    ) -> AsyncGenerator[member_service_pb2.StreamCompleteResponse]:
        """Complete a prompt piece by piece."""
        wanted = generation_request_from_wire(request.request, is_streamed=True)
        async with aclosing(self._engine.generate(wanted)) as chunks:
            async for chunk in chunks:
                yield member_service_pb2.StreamCompleteResponse(piece=chunk_to_wire(chunk, chunk.text))

    async def Score(  # noqa: N802 - gRPC's name
        self, request: member_service_pb2.ScoreRequest, context: Context
    ) -> member_service_pb2.ScoreResponse:
        """Give the choices' log-probabilities."""
        return scores_to_wire(await self._engine.score(scoring_request_from_wire(request)))

    async def ScoreMany(  # noqa: N802 - gRPC's name
        self, request: member_service_pb2.ScoreManyRequest, context: Context
    ) -> member_service_pb2.ScoreManyResponse:
        """Answer several scorings: those that are done when the call has to go back, and what kept the others."""
        left_s = context.time_remaining()
        within_s = None if left_s is None else left_s - min(REPLY_SHARE * left_s, LONGEST_REPLY_S)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._outcome(one, within_s)) for one in request.requests]
        return member_service_pb2.ScoreManyResponse(outcomes=[task.result() for task in tasks])

    async def _outcome(
        self, request: member_service_pb2.ScoreRequest, within_s: float | None
    ) -> member_service_pb2.ScoreOutcome:
        try:
            scores = scores_to_wire(await self._score(request, within_s))
        except EnsembleError as error:
            return _failed(error)
        except Exception as error:
            # As for a call of its own: the others in this one get their scores all the same.
            log.exception("a scoring failed")
            return _failed(DefectError(type(error).__name__))
        return member_service_pb2.ScoreOutcome(scores=scores)

    async def _score(self, request: member_service_pb2.ScoreRequest, within_s: float | None) -> ChoiceScores:
        limit = asyncio.timeout(within_s)
        try:
            async with limit:
                return await self._engine.score(scoring_request_from_wire(request))
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise MemberTimeoutError(self._member, "its scores were not there by the deadline") from error

    async def Embed(  # noqa: N802 - gRPC's name
        self, request: member_service_pb2.EmbedRequest, context: Context
    ) -> member_service_pb2.EmbedResponse:
        """Give an embedding of each text."""
        return embeddings_to_wire(await self._engine.embed(embedding_request_from_wire(request)))

    async def GetStats(  # noqa: N802 - gRPC's name
        self, request: member_service_pb2.GetStatsRequest, context: Context
    ) -> member_service_pb2.GetStatsResponse:
        """Read the engine's counters."""
        return member_service_pb2.GetStatsResponse(stats=stats_to_wire(self._engine.stats()))


def _failed(error: EnsembleError) -> member_service_pb2.ScoreOutcome:
    # The member's name is the caller's to add.
    problem = error.problem if isinstance(error, MemberError) else str(error)
    return member_service_pb2.ScoreOutcome(reason=type(error).__name__, problem=problem)
