"""Asks a member over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import grpc

from ensemble.errors import (
    MemberBusyError,
    MemberError,
    MemberRefusedError,
    MemberTimeoutError,
    MemberUnavailableError,
)
from ensemble.generation import (
    ChoiceScores,
    Completion,
    CompletionChunk,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    ScoringRequest,
)
from ensemble.router.ports import ReplicaReport
from ensemble.rpc.channels import Peer
from ensemble.rpc.convert_member import (
    chunk_from_wire,
    completion_from_wire,
    embedding_request_to_wire,
    embeddings_from_wire,
    generation_request_to_wire,
    scores_from_wire,
    scoring_request_to_wire,
)
from ensemble.rpc.replica_call import ReplicaCaller
from ensemble.rpc.secret import SECRET_KEY
from ensemble.v1 import member_service_pb2 as pb

_ERROR_BY_CODE: dict[grpc.StatusCode, type[MemberError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: MemberTimeoutError,
    grpc.StatusCode.UNAVAILABLE: MemberUnavailableError,
    grpc.StatusCode.FAILED_PRECONDITION: MemberRefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: MemberBusyError,
}
_ERROR_BY_REASON = {kind.__name__: kind for kind in _ERROR_BY_CODE.values()}


class GrpcMemberClient:
    """A MemberClient whose replicas serve MemberService."""

    def __init__(self, caller: ReplicaCaller, *, member: str, secret: str) -> None:
        self._caller = caller
        self._member = member
        self._metadata = ((SECRET_KEY, secret),)

    async def score(self, request: ScoringRequest, *, timeout_s: float) -> ChoiceScores:
        """Get the choices' log-probabilities."""
        wire = scoring_request_to_wire(request)

        async def attempt(peer: Peer, left_s: float) -> pb.ScoreResponse:
            return await peer.member.Score(wire, timeout=left_s, metadata=self._metadata)

        try:
            return scores_from_wire(await self._caller.call(attempt, timeout_s=timeout_s))
        except grpc.aio.AioRpcError as failure:
            raise self._error(failure) from failure

    async def score_many(
        self, requests: Sequence[ScoringRequest], *, timeout_s: float
    ) -> tuple[ChoiceScores | MemberError, ...]:
        """Get the scores of several requests in one call, or what kept the engine from each, in their order."""
        wire = pb.ScoreManyRequest(requests=map(scoring_request_to_wire, requests))

        async def attempt(peer: Peer, left_s: float) -> pb.ScoreManyResponse:
            return await peer.member.ScoreMany(wire, timeout=left_s, metadata=self._metadata)

        try:
            outcomes = (await self._caller.call(attempt, timeout_s=timeout_s)).outcomes
        except grpc.aio.AioRpcError as failure:
            raise self._error(failure) from failure
        if len(outcomes) != len(requests):
            raise MemberError(self._member, f"it gave {len(outcomes)} outcomes of {len(requests)} scorings")
        return tuple(map(self._scores_or_error, outcomes))

    async def complete(self, request: GenerationRequest, *, timeout_s: float) -> Completion:
        """Get a whole completion."""
        wire = generation_request_to_wire(request)

        async def attempt(peer: Peer, left_s: float) -> pb.CompleteResponse:
            return await peer.member.Complete(wire, timeout=left_s, metadata=self._metadata)

        try:
            return completion_from_wire(await self._caller.call(attempt, timeout_s=timeout_s))
        except grpc.aio.AioRpcError as failure:
            raise self._error(failure) from failure

    async def stream(self, request: GenerationRequest, *, timeout_s: float) -> AsyncGenerator[CompletionChunk]:
        """Get a completion piece by piece; another replica is tried only before the first piece."""
        wire = pb.StreamCompleteRequest(request=generation_request_to_wire(request))

        async def attempt(peer: Peer, left_s: float) -> AsyncGenerator[pb.StreamCompleteResponse]:
            call = peer.member.StreamComplete(wire, timeout=left_s, metadata=self._metadata)
            async for first in call:
                return _with_rest(first, call)
            raise MemberError(self._member, "its completion is empty")

        try:
            async with aclosing(await self._caller.call(attempt, timeout_s=timeout_s)) as responses:
                async for response in responses:
                    yield chunk_from_wire(response.piece)
        except grpc.aio.AioRpcError as failure:
            raise self._error(failure) from failure

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> Embeddings:
        """Get an embedding of each text."""
        wire = embedding_request_to_wire(request)

        async def attempt(peer: Peer, left_s: float) -> pb.EmbedResponse:
            return await peer.member.Embed(wire, timeout=left_s, metadata=self._metadata)

        try:
            embeddings = embeddings_from_wire(await self._caller.call(attempt, timeout_s=timeout_s))
        except grpc.aio.AioRpcError as failure:
            raise self._error(failure) from failure
        if len(embeddings.vectors) != len(request.texts):
            problem = f"it gave {len(embeddings.vectors)} embeddings for {len(request.texts)} texts"
            raise MemberError(self._member, problem)
        return embeddings

    async def reports(self, *, timeout_s: float) -> tuple[ReplicaReport, ...]:
        """Get the counters of every replica."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._caller.picker.reports()
        except TimeoutError as error:
            raise MemberTimeoutError(self._member, f"it did not report within {timeout_s:.0f} s") from error

    def _scores_or_error(self, outcome: pb.ScoreOutcome) -> ChoiceScores | MemberError:
        if outcome.HasField("scores"):
            return scores_from_wire(outcome.scores)
        return _ERROR_BY_REASON.get(outcome.reason, MemberError)(self._member, outcome.problem)

    def _error(self, failure: grpc.aio.AioRpcError) -> MemberError:
        kind = _ERROR_BY_CODE.get(failure.code(), MemberError)
        return kind(self._member, failure.details() or failure.code().name)


async def _with_rest(
    first: pb.StreamCompleteResponse,
    call: grpc.aio.UnaryStreamCall[pb.StreamCompleteRequest, pb.StreamCompleteResponse],
) -> AsyncGenerator[pb.StreamCompleteResponse]:
    try:
        yield first
        async for response in call:
            yield response
    finally:
        call.cancel()
