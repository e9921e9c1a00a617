"""A new revision replaces every replica while clients call, and no call fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.voting.decision import Decision
from tests.rpc.systems import wait_until
from tests.serving.systems import RunningSystem, build_spec, echo_member, remove, replica_ids, run

pytestmark = pytest.mark.ray

NUM_CLIENTS = 16


@pytest.fixture
def rolling(cluster: None) -> Iterator[RunningSystem]:  # noqa: ARG001 - it must run
    members = [echo_member(name, seed=n, delay_s=0.01) for n, name in enumerate("ab")]
    yield run(build_spec("rolling", members, serving={"revision": "1", "drain_timeout_s": 10.0}))
    remove("rolling")


async def test_a_rolling_redeploy_replaces_every_replica_and_fails_no_request(rolling: RunningSystem) -> None:
    spec = rolling.spec
    next_spec = spec.model_copy(update={"serving": spec.serving.model_copy(update={"revision": "2"})})
    decisions: list[Decision] = []
    is_over = asyncio.Event()

    async def call_on() -> None:
        # Each client has its own connection: the router's replicas share the port, and both get some of them.
        async with AsyncEnsembleClient(rolling.address) as client:
            while not is_over.is_set():
                decisions.append(await client.classify(f"Question {len(decisions)}?", ["yes", "no"]))

    async with AsyncEnsembleClient(rolling.address) as client:
        before = await replica_ids(client)
        async with asyncio.TaskGroup() as group:
            for _ in range(NUM_CLIENTS):
                group.create_task(call_on())
            await asyncio.to_thread(run, next_spec)
            num_before_the_end = len(decisions)
            await wait_until(lambda: len(decisions) > num_before_the_end + 100)
            is_over.set()
        after = await replica_ids(client)

    assert num_before_the_end > 0
    assert all(len(decision.ballots) + len(decision.abstentions) == 2 for decision in decisions)
    assert not any(silence.reason == "error" for decision in decisions for silence in decision.abstentions)
    assert before.keys() == after.keys()
    for member, ids in before.items():
        assert ids
        assert after[member]
        assert not ids & after[member]


async def test_an_update_leaves_the_members_that_it_does_not_concern_as_they_are(rolling: RunningSystem) -> None:
    spec = rolling.spec
    ensemble = spec.ensembles[0].model_copy(update={"classify_strategy": "soft_vote"})
    next_spec = spec.model_copy(update={"ensembles": (ensemble,)})

    async with AsyncEnsembleClient(rolling.address) as client:
        before = await replica_ids(client)
        await asyncio.to_thread(run, next_spec)
        decision = await client.classify("A question?", ["yes", "no"])
        after = await replica_ids(client)

    assert decision.strategy == "soft_vote"
    assert after == before
