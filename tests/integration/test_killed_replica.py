"""A member's process dies in the middle of many requests: every client gets its decision all the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import psutil
import pytest

from ensemble.router.request import QuorumOverrides, VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.voting.ballot import AbstentionReason
from ensemble.voting.decision import Decision
from tests.cli.serve_runs import find_replica
from tests.serving.systems import GENEROUS_S, POLL_S, RunningSystem, build_spec, echo_member, remove, run

pytestmark = pytest.mark.ray

NUM_CLIENTS = 200
EVERYONE = VoteOptions(quorum=QuorumOverrides(stop_early=False))


@pytest.fixture(scope="module")
def fragile(cluster: None) -> Iterator[RunningSystem]:  # noqa: ARG001 - it must run
    members = [echo_member(name, seed=n, delay_s=0.3) for n, name in enumerate(("a", "b", "victim"))]
    yield run(build_spec("fragile", members, serving={"health_check_period_s": 1.0}))
    remove("fragile")


async def ask(client: AsyncEnsembleClient) -> Decision:
    return await client.classify("Is it so?", ["yes", "no"], options=EVERYONE)


async def test_every_client_gets_a_decision_when_a_replica_is_killed_and_the_replica_comes_back(
    fragile: RunningSystem,
) -> None:
    victim = find_replica(psutil.Process(), "fragile:member-victim")
    async with AsyncEnsembleClient(fragile.address) as client:
        assert len((await ask(client)).ballots) == 3
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(client)) for _ in range(NUM_CLIENTS)]
            # The requests take 0.3 s at least in the member, so that they are all under way.
            await asyncio.sleep(0.1)
            victim.kill()
        decisions = [task.result() for task in tasks]
        started_s = time.monotonic()
        while len((await ask(client)).ballots) < 3:
            assert time.monotonic() - started_s < GENEROUS_S
            await asyncio.sleep(POLL_S)
        reborn = find_replica(psutil.Process(), "fragile:member-victim")

    assert len(decisions) == NUM_CLIENTS
    assert len({decision.answer for decision in decisions if len(decision.ballots) == 3}) <= 1
    silent = [silence for decision in decisions for silence in decision.abstentions]
    # How many abstain depends on how soon Ray replaces the replica; who abstains, and why, does not.
    assert {(silence.member, silence.reason) for silence in silent} <= {("victim", AbstentionReason.ERROR)}
    assert all({"a", "b"} <= {ballot.member for ballot in decision.ballots} for decision in decisions)
    assert not any(decision.degraded for decision in decisions)
    assert reborn.pid != victim.pid


async def test_texts_are_decided_though_the_voting_replica_is_killed(fragile: RunningSystem) -> None:
    victim = find_replica(psutil.Process(), "fragile:voting")
    async with (
        AsyncEnsembleClient(fragile.address, timeout_s=2 * GENEROUS_S) as client,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(client.generate("one two three")) for _ in range(NUM_CLIENTS)]
        # The members take 0.3 s at least, so that no vote is decided before the voting service is gone.
        await asyncio.sleep(0.1)
        victim.kill()

    decisions = [task.result() for task in tasks]
    assert {decision.strategy for decision in decisions} == {"mbr"}
    assert {decision.answer for decision in decisions} == {"one two three"}
