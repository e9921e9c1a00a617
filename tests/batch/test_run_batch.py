"""Items are asked a few at a time, again while a fault keeps a vote away, and kept in whole shards."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from ensemble.batch.run_batch import MAX_OPEN_SHARDS, Schedule, run_batch
from ensemble.errors import (
    EndpointError,
    EnsembleError,
    MemberUnavailableError,
    OverloadedError,
    QuorumError,
)
from ensemble.voting.ballot import AbstentionReason
from ensemble.voting.decision import Decision
from tests.batch.askers import FAULT, LONG_S, PATIENCE_S, SHARD_ITEMS, FakeAsker, PatientAsker, StuckAsker, rows, run
from tests.batch.batches import build_decision, build_items, build_manifest, build_store


async def test_every_item_is_asked_once_and_a_few_at_a_time(tmp_path: Path) -> None:
    store, asker = build_store(tmp_path, build_manifest(10)), FakeAsker()

    num_heard = await run(store, asker)

    assert asker.asked == Counter({f"q{n}": 1 for n in range(10)})
    assert asker.most_running == 3
    assert num_heard == 10
    assert list(rows(store)) == [f"q{n}" for n in range(10)]


async def test_items_of_shards_that_are_there_are_not_asked_again(tmp_path: Path) -> None:
    store = build_store(tmp_path, build_manifest(10))
    await run(store, FakeAsker())
    (tmp_path / "out.jsonl.batch" / "shards" / "00000001.jsonl").unlink()
    again = FakeAsker()

    await run(store, again)

    assert set(again.asked) == {"q4", "q5", "q6", "q7"}


@pytest.mark.parametrize(
    "failure",
    [
        FAULT,
        build_decision("blue", silent=[("b", AbstentionReason.DEADLINE)]),
        OverloadedError(3),
        EndpointError("here:1", "UNAVAILABLE", "gone"),
        MemberUnavailableError("router", "no replica can be chosen"),
        QuorumError("default", 0, 2, "a: error, b: refusal"),
    ],
)
async def test_an_item_that_a_fault_kept_a_vote_from_is_asked_again(
    tmp_path: Path, failure: EnsembleError | Decision
) -> None:
    store, asker = build_store(tmp_path, build_manifest(5)), FakeAsker({"q2": [failure, failure]})

    await run(store, asker)

    assert asker.asked["q2"] == 3
    assert rows(store)["q2"]["answer"] == "red"


async def test_a_fault_that_outlasts_the_patience_ends_the_batch_and_whole_shards_stay(tmp_path: Path) -> None:
    store, asker = build_store(tmp_path, build_manifest(12)), FakeAsker({"q11": [FAULT] * 1_000})

    with pytest.raises(EnsembleError, match="member b: error: why"):
        await run(store, asker, concurrency=1)

    assert store.stored() == {0, 1}
    assert 10 < asker.asked["q11"] < 40


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_call_that_nobody_cut_off_loses_no_item(tmp_path: Path, concurrency: int) -> None:
    store, asker = build_store(tmp_path, build_manifest(10)), FakeAsker({"q3": [asyncio.CancelledError()] * 2})

    async with asyncio.timeout(LONG_S):
        await run(store, asker, concurrency=concurrency)

    assert asker.asked["q3"] == 3
    assert list(rows(store)) == [f"q{n}" for n in range(10)]


async def test_a_batch_that_is_ended_ends_at_once(tmp_path: Path) -> None:
    running = asyncio.create_task(run(build_store(tmp_path, build_manifest(8)), StuckAsker()))
    await asyncio.sleep(0.1)
    running.cancel()

    async with asyncio.timeout(LONG_S):
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_small_shards_do_not_keep_items_from_being_asked_together(tmp_path: Path) -> None:
    concurrency = 4 * MAX_OPEN_SHARDS
    store, asker = build_store(tmp_path, build_manifest(concurrency, shard_items=1)), PatientAsker(wanted=concurrency)
    shards = ((item,) for item in build_items(concurrency))

    async with asyncio.timeout(LONG_S):
        await run_batch(shards, store, asker, schedule=Schedule(concurrency=concurrency, patience_s=PATIENCE_S))

    assert len(store.stored()) == concurrency


async def test_stuck_items_do_not_let_open_shards_pile_up(tmp_path: Path) -> None:
    num_shards = MAX_OPEN_SHARDS + 20
    store, asker = build_store(tmp_path, build_manifest(num_shards * SHARD_ITEMS)), StuckAsker()

    running = asyncio.create_task(run(store, asker, concurrency=num_shards))
    async with asyncio.timeout(LONG_S):
        while len(asker.shards) < MAX_OPEN_SHARDS:
            await asyncio.to_thread(time.sleep, 0.001)  # shards are read in a thread
    for _ in range(10 * num_shards):
        await asyncio.to_thread(time.sleep, 0.0)
    running.cancel()

    assert len(asker.shards) == MAX_OPEN_SHARDS
