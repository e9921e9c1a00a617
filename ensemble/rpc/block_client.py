"""Asks a member many things at a time: what is asked in one moment goes into one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ensemble.errors import MemberError
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
from ensemble.rpc.member_client import GrpcMemberClient


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    request: ScoringRequest
    timeout_s: float
    scores: asyncio.Future[ChoiceScores]


class BlockMemberClient:
    """A MemberClient whose scorings share calls, at most ``max_block`` a call; leaving the context ends what is left.

    A call costs more than a small model's answer. Who stops waiting leaves the others in the block alone, and so its
    own request goes on in the engine: this is for callers who wait for everyone.
    """

    def __init__(self, client: GrpcMemberClient, *, max_block: int) -> None:
        self._client = client
        self._max_block = max_block
        self._waiting: list[_Waiting] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)

    async def score(self, request: ScoringRequest, *, timeout_s: float) -> ChoiceScores:
        """Get the choices' log-probabilities."""
        loop = asyncio.get_running_loop()
        one = _Waiting(request=request, timeout_s=timeout_s, scores=loop.create_future())
        self._waiting.append(one)
        if len(self._waiting) == 1:
            # After everybody who runs in this turn of the loop has asked.
            loop.call_soon(self._send)
        elif len(self._waiting) == self._max_block:
            self._send()
        return await one.scores

    async def complete(self, request: GenerationRequest, *, timeout_s: float) -> Completion:
        """Get a whole completion."""
        return await self._client.complete(request, timeout_s=timeout_s)

    def stream(self, request: GenerationRequest, *, timeout_s: float) -> AsyncGenerator[CompletionChunk]:
        """Get a completion piece by piece."""
        return self._client.stream(request, timeout_s=timeout_s)

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> Embeddings:
        """Get an embedding of each text."""
        return await self._client.embed(request, timeout_s=timeout_s)

    async def reports(self, *, timeout_s: float) -> tuple[ReplicaReport, ...]:
        """Get the counters of every replica."""
        return await self._client.reports(timeout_s=timeout_s)

    def _send(self) -> None:
        block, self._waiting = self._waiting, []
        if block:
            call = asyncio.create_task(self._call(block))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, block: list[_Waiting]) -> None:
        timeout_s = min(one.timeout_s for one in block)
        outcomes: Sequence[ChoiceScores | MemberError]
        try:
            try:
                outcomes = await self._client.score_many([one.request for one in block], timeout_s=timeout_s)
            except MemberError as error:
                outcomes = [error] * len(block)
            for one, outcome in zip(block, outcomes, strict=True):
                _settle(one.scores, outcome)
        finally:
            # Nobody waits for what has no outcome: the call was cancelled.
            for one in block:
                one.scores.cancel()


def _settle(scores: asyncio.Future[ChoiceScores], outcome: ChoiceScores | MemberError) -> None:
    if scores.done():  # nobody waits any more
        return
    if isinstance(outcome, MemberError):
        scores.set_exception(outcome)
    else:
        scores.set_result(outcome)
