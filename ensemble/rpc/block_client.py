"""Asks a member many things at a time: what is asked in one moment goes into one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from ensemble.errors import MemberBusyError
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
    until_s: float
    """By the loop's clock."""
    scores: asyncio.Future[ChoiceScores]


class BlockMemberClient:
    """A MemberClient whose scorings share calls, at most ``max_block`` a call; leaving the context ends what is left.

    A call costs more than a small model's answer. Who stops waiting leaves the others in the block alone, and so its
    own request goes on in the engine: this is for callers who wait for everyone. Who finds its replica full is asked
    for once more, in a call of its own, which other replicas may answer.
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
        for one in self._waiting:
            one.scores.cancel()
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)

    async def score(self, request: ScoringRequest, *, timeout_s: float) -> ChoiceScores:
        """Get the choices' log-probabilities."""
        loop = asyncio.get_running_loop()
        one = _Waiting(request=request, until_s=loop.time() + timeout_s, scores=loop.create_future())
        self._waiting.append(one)
        if len(self._waiting) >= self._max_block:
            self._send()
        elif len(self._waiting) == 1:
            # After everybody who runs in this turn of the loop has asked.
            loop.call_soon(self._send)
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
        block, self._waiting = [one for one in self._waiting if not one.scores.done()], []
        if block:
            self._begin(self._ask_together(block), block)

    def _begin(self, work: Coroutine[None, None, None], block: Sequence[_Waiting]) -> None:
        call = asyncio.create_task(work)
        self._calls.add(call)
        call.add_done_callback(partial(self._end, block))

    def _end(self, block: Sequence[_Waiting], call: asyncio.Task[None]) -> None:
        """Tell those who wait when a call has failed, whatever it met."""
        self._calls.discard(call)
        if call.cancelled():
            for one in block:
                one.scores.cancel()
        elif error := call.exception():
            for one in block:
                _settle(one.scores, error)

    async def _ask_together(self, block: Sequence[_Waiting]) -> None:
        timeout_s = _left_s(min(one.until_s for one in block))
        outcomes = await self._client.score_many([one.request for one in block], timeout_s=timeout_s)
        for one, outcome in zip(block, outcomes, strict=True):
            if isinstance(outcome, MemberBusyError) and not one.scores.done():
                self._begin(self._ask_alone(one), [one])
            else:
                _settle(one.scores, outcome)

    async def _ask_alone(self, one: _Waiting) -> None:
        _settle(one.scores, await self._client.score(one.request, timeout_s=_left_s(one.until_s)))


def _left_s(until_s: float) -> float:
    return max(0.001, until_s - asyncio.get_running_loop().time())


def _settle(scores: asyncio.Future[ChoiceScores], outcome: ChoiceScores | BaseException) -> None:
    if scores.done():  # nobody waits any more
        return
    if isinstance(outcome, BaseException):
        scores.set_exception(outcome)
    else:
        scores.set_result(outcome)
