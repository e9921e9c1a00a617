"""Whoever stops waiting stops the work, across processes: read from the counters of the member's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import pytest

from ensemble.engines.engine import EngineStats
from ensemble.errors import EnsembleError
from ensemble.router.request import ParameterOverrides, TextPiece, VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.voting.ballot import AbstentionReason
from ensemble.voting.decision import DecidedBy
from tests.serving.systems import GENEROUS_S, RunningSystem, replica_stats, wait_for_stats

pytestmark = pytest.mark.ray

PROMPT = "w3 " * 400
"""At 50 ms a word 20 s for the echo member; the tiny model goes on from it by itself."""
MANY = ParameterOverrides(max_tokens=3_500)
MAJORITY = VoteOptions(strategy="majority")
MEMBERS = ["words", "tiny"]
Vote = TypeVar("Vote")


async def stats_of(client: AsyncEnsembleClient, member: str) -> EngineStats:
    (stats,) = (await replica_stats(client, f"only-{member}", member)).values()
    return stats


async def check_aborted(client: AsyncEnsembleClient, member: str, before: EngineStats) -> None:
    """Assert that the engine let the request go, at once, and that nothing goes on."""
    after = await wait_for_stats(
        client,
        f"only-{member}",
        member,
        lambda stats: stats.aborted_requests > before.aborted_requests and not stats.running_requests,
    )
    assert after.max_steps_to_abort <= 1
    assert after.finished_requests == before.finished_requests
    await asyncio.sleep(0.3)  # Long enough for either engine to generate more, if anything of it still ran.
    later = await stats_of(client, member)
    assert (later.completion_tokens, later.running_requests) == (after.completion_tokens, 0)


async def vote_until_stopped(
    client: AsyncEnsembleClient, member: str, before: EngineStats, vote: Callable[[], Awaitable[Vote]]
) -> Vote:
    """Vote again until the late member was at work when the vote ended: a call that never left stops nothing."""
    async with asyncio.timeout(GENEROUS_S):
        while True:
            decision = await vote()
            if (await stats_of(client, member)).aborted_requests > before.aborted_requests:
                return decision


@pytest.mark.parametrize("member", MEMBERS)
async def test_a_client_that_leaves_its_stream_stops_the_members_engine(system: RunningSystem, member: str) -> None:
    async with AsyncEnsembleClient(system.address) as client:
        before = await stats_of(client, member)

        stream = client.stream_generate(PROMPT, ensemble=f"only-{member}", parameters=MANY, options=MAJORITY)
        async with aclosing(stream) as events:
            heard = [await anext(events) for _ in range(3)]

        await check_aborted(client, member, before)

    assert all(isinstance(event, TextPiece) for event in heard)


@pytest.mark.parametrize("member", MEMBERS)
async def test_a_deadline_that_passes_stops_the_members_engine(system: RunningSystem, member: str) -> None:
    async with AsyncEnsembleClient(system.address) as client:
        before = await stats_of(client, member)

        async def vote_in_haste() -> None:
            async with AsyncEnsembleClient(system.address, timeout_s=1.0) as hasty:
                with pytest.raises(EnsembleError):
                    await hasty.generate(PROMPT, ensemble=f"only-{member}", parameters=MANY, options=MAJORITY)

        await vote_until_stopped(client, member, before, vote_in_haste)

        await check_aborted(client, member, before)


@pytest.mark.parametrize("member", MEMBERS)
async def test_a_vote_that_is_decided_stops_the_late_members_engine(system: RunningSystem, member: str) -> None:
    async with AsyncEnsembleClient(system.address) as client:
        before = await stats_of(client, member)

        decision = await vote_until_stopped(
            client,
            member,
            before,
            lambda: client.generate(PROMPT, ensemble=f"late-{member}", parameters=MANY, options=MAJORITY),
        )

        await check_aborted(client, member, before)

    assert decision.decided_by is DecidedBy.LOSSLESS_QUORUM
    assert [ballot.member for ballot in decision.ballots] == ["p0", "p1"]
    assert [(silent.member, silent.reason) for silent in decision.abstentions] == [(member, AbstentionReason.CANCELLED)]


async def test_a_deadline_that_passes_leaves_the_others_to_decide(system: RunningSystem) -> None:
    async with AsyncEnsembleClient(system.address, timeout_s=5.0) as client:
        decision = await client.generate(
            PROMPT,
            ensemble="late-words",
            parameters=MANY,
            options=VoteOptions(strategy="majority", panel=("p0", "words")),
        )

    assert decision.decided_by is DecidedBy.DEADLINE
    assert [(silent.member, silent.reason) for silent in decision.abstentions] == [("words", AbstentionReason.DEADLINE)]


async def test_a_vote_among_choices_that_is_decided_stops_the_late_members_scoring(system: RunningSystem) -> None:
    async with AsyncEnsembleClient(system.address) as client:
        before = await stats_of(client, "scores")

        decision = await vote_until_stopped(
            client,
            "scores",
            before,
            lambda: client.classify("Is it so?", ["yes", "no"], ensemble="late-scores"),
        )

        await check_aborted(client, "scores", before)

    assert decision.decided_by is DecidedBy.LOSSLESS_QUORUM
