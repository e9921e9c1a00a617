"""Whoever stops waiting stops the work: the member's engine lets the request go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from ensemble.engines.config import EchoEngineConfig
from ensemble.engines.echo import EchoEngine
from ensemble.generation import CompletionChunk, GenerationRequest
from ensemble.router.request import TextPiece
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.voting.ballot import AbstentionReason
from ensemble.voting.decision import DecidedBy
from tests.rpc.systems import LONG_S, build_echo, endpoint_running, wait_until

WORDS = "word " * 190
"""At a word every 50 ms, far longer than any of these tests."""
Call = Callable[[AsyncEnsembleClient], Awaitable[object]]


class FollowingEngine(EchoEngine):
    """Answers once another engine is at work: a vote that is decided before stops a call that never left."""

    def __init__(self, other: EchoEngine) -> None:
        super().__init__(EchoEngineConfig(), member="a")
        self._other = other

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[CompletionChunk]:
        await wait_until_running(self._other)
        async with aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk


@asynccontextmanager
async def slow_member(*, delay_s: float = LONG_S) -> AsyncIterator[tuple[EchoEngine, AsyncEnsembleClient]]:
    engine = build_echo(token_delay_s=0.05, delay_s=delay_s)
    async with endpoint_running({"a": engine}) as endpoint, AsyncEnsembleClient(endpoint.address) as client:
        yield engine, client


async def wait_until_running(engine: EchoEngine) -> None:
    await wait_until(lambda: engine.stats().running_requests > 0)


async def check_aborted(engine: EchoEngine, *, num_aborted: int = 1) -> None:
    await wait_until(lambda: not engine.stats().running_requests)
    stats = engine.stats()
    assert (stats.aborted_requests, stats.finished_requests) == (num_aborted, 0)
    assert stats.max_steps_to_abort <= 1
    assert stats.completion_tokens < 190


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.generate(WORDS),
        lambda client: client.classify("Is it so?", ["yes", "no"]),
        lambda client: anext(client.stream_classify("Is it so?", ["yes", "no"])),
        lambda client: anext(client.stream_generate(WORDS)),
    ],
    ids=["generate", "classify", "stream_classify", "stream_generate"],
)
async def test_cancelling_the_clients_call_cancels_the_engines_request(call: Call) -> None:
    async with slow_member() as (engine, client):
        task = asyncio.ensure_future(call(client))
        await wait_until_running(engine)

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await check_aborted(engine)


async def test_leaving_a_stream_in_the_middle_cancels_the_engines_request() -> None:
    async with slow_member(delay_s=0.0) as (engine, client):
        async with aclosing(client.stream_generate(WORDS)) as events:
            first = await anext(events)

        await check_aborted(engine)

    assert isinstance(first, TextPiece)


async def test_a_client_that_goes_away_cancels_the_engines_request() -> None:
    engine = build_echo(token_delay_s=0.05)
    async with endpoint_running({"a": engine}) as endpoint:
        client = AsyncEnsembleClient(endpoint.address)
        task = asyncio.create_task(client.generate(WORDS))
        await wait_until_running(engine)

        await client.close()

        await asyncio.wait([task])
        await check_aborted(engine)


async def test_a_vote_that_is_decided_cancels_the_late_members_request() -> None:
    late = build_echo("late", token_delay_s=0.05)
    engines = {"a": FollowingEngine(late), "b": FollowingEngine(late), "late": late}
    async with endpoint_running(engines) as endpoint, AsyncEnsembleClient(endpoint.address) as client:
        decision = await client.generate(WORDS)

        await check_aborted(late)

    assert decision.decided_by is DecidedBy.LOSSLESS_QUORUM
    assert [(silent.member, silent.reason) for silent in decision.abstentions] == [("late", AbstentionReason.CANCELLED)]


async def test_a_deadline_cancels_the_late_members_request() -> None:
    engines = {"a": build_echo("a"), "late": build_echo("late", token_delay_s=0.05)}
    async with endpoint_running(engines) as endpoint, AsyncEnsembleClient(endpoint.address, timeout_s=5.0) as client:
        decision = await client.generate(WORDS)

        await check_aborted(engines["late"])

    assert decision.decided_by is DecidedBy.DEADLINE


async def test_many_calls_given_up_at_once_leave_nothing_behind() -> None:
    async with slow_member() as (engine, client):
        tasks = [asyncio.create_task(client.generate(WORDS)) for _ in range(50)]
        await wait_until(lambda: engine.stats().running_requests == 50)

        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

        await check_aborted(engine, num_aborted=50)
