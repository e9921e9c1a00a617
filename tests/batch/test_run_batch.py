"""Items are asked a few at a time, again while a fault keeps a vote away, and kept in whole shards."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from ensemble.batch.answers import Answer
from ensemble.batch.items import BatchItem
from ensemble.batch.run_batch import ATTEMPTS_BEFORE_MISSING, MAX_OPEN_SHARDS, Asker, Schedule, run_batch
from ensemble.batch.shard_store import ShardStore
from ensemble.errors import (
    EndpointError,
    EnsembleError,
    InvalidRequestError,
    MemberRefusedError,
    MemberTimeoutError,
    MemberUnavailableError,
    MessageTooLargeError,
    OverloadedError,
    QuorumError,
    UnknownNameError,
)
from ensemble.rpc.status import status_from_error
from ensemble.voting.ballot import AbstentionReason
from ensemble.voting.decision import Decision
from tests.batch.batches import build_decision, build_items, build_manifest, build_store

SHARD_ITEMS = 4
PATIENCE_S = 60.0
LONG_S = 60.0
FAULT = build_decision("blue", silent=[("b", AbstentionReason.ERROR)])


@dataclass(slots=True)
class FakeTime:
    """A clock that its own pauses move."""

    now_s: float = 0.0

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s
        await asyncio.sleep(0)


@dataclass(slots=True)
class FakeAsker:
    """Fails on some items, in the given ways one after another, and then decides."""

    outcomes: dict[str, list[EnsembleError | Decision | asyncio.CancelledError]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    num_running: int = 0
    most_running: int = 0

    async def ask(self, item: BatchItem) -> Decision:
        self.asked[item.item_id] += 1
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        await asyncio.sleep(0)
        self.num_running -= 1
        outcomes = self.outcomes.get(item.item_id, [])
        outcome = outcomes.pop(0) if outcomes else build_decision()
        if not isinstance(outcome, Decision):
            raise outcome
        return outcome


@dataclass(slots=True)
class StuckAsker:
    """Never answers the first item of any shard."""

    shards: set[int] = field(default_factory=set)

    async def ask(self, item: BatchItem) -> Decision:
        shard, place = divmod(int(item.item_id[1:]), SHARD_ITEMS)
        self.shards.add(shard)
        if place == 0:
            await asyncio.Event().wait()
        return build_decision()


@dataclass(slots=True, kw_only=True)
class PatientAsker:
    """Answers when so many items are under way together."""

    wanted: int
    num_running: int = 0
    is_full: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, _item: BatchItem) -> Decision:
        self.num_running += 1
        if self.num_running == self.wanted:
            self.is_full.set()
        await self.is_full.wait()
        return build_decision()


def cut(items: tuple[BatchItem, ...]) -> Iterable[tuple[BatchItem, ...]]:
    return (items[first : first + SHARD_ITEMS] for first in range(0, len(items), SHARD_ITEMS))


async def run(
    store: ShardStore,
    asker: Asker,
    *,
    concurrency: int = 3,
    accept_missing: bool = False,
) -> int:
    fake = FakeTime()
    heard: list[None] = []
    await run_batch(
        iter(cut(build_items(store.manifest.num_items))),
        store,
        asker,
        schedule=Schedule(
            concurrency=concurrency,
            patience_s=PATIENCE_S,
            accept_missing=accept_missing,
            clock=fake.clock,
            sleep=fake.sleep,
        ),
        on_answered=lambda: heard.append(None),
    )
    return len(heard)


def rows(store: ShardStore) -> dict[str, dict[str, Any]]:
    answers: list[Answer] = []
    store.finish(on_answer=answers.append, write_report=dict)
    return {str(answer.columns["id"]): dict(answer.columns) for answer in answers}


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


@pytest.mark.parametrize("reason", [AbstentionReason.REFUSAL, AbstentionReason.UNPARSEABLE])
async def test_a_silence_that_would_come_again_counts(tmp_path: Path, reason: AbstentionReason) -> None:
    asker = FakeAsker({"q2": [build_decision("blue", silent=[("b", reason)])]})
    store = build_store(tmp_path, build_manifest(5))

    await run(store, asker)

    assert asker.asked["q2"] == 1
    assert rows(store)["q2"]["abstentions"] == [{"member": "b", "reason": reason.value}]


@pytest.mark.parametrize(
    "failure",
    [QuorumError("default", 0, 2, "a: refusal, b: unparseable"), MemberRefusedError("judge", "the prompt is too long")],
)
async def test_an_item_that_everybody_declines_has_no_answer_and_holds_nothing_up(
    tmp_path: Path, failure: EnsembleError
) -> None:
    store, asker = build_store(tmp_path, build_manifest(5)), FakeAsker({"q2": [failure]})

    await run(store, asker)

    assert asker.asked["q2"] == 1
    assert rows(store)["q2"]["answer"] is None


@pytest.mark.parametrize(("first", "num_asked"), [("refusal", 1), ("error", 2)])
async def test_reasons_that_lost_their_middle_on_the_way_are_understood(
    tmp_path: Path, first: str, num_asked: int
) -> None:
    told = ", ".join(f"member-{n}: {'refusal' if n else first}" for n in range(60))
    answer = status_from_error(QuorumError("default", 0, 60, told))
    (info,) = (detail for detail in answer.details if detail.Is(ErrorInfo.DESCRIPTOR))
    facts = ErrorInfo.FromString(info.value).metadata
    assert len(facts["reasons"]) < len(told)
    store = build_store(tmp_path, build_manifest(5))
    asker = FakeAsker({"q2": [QuorumError("default", 0, 60, facts["reasons"])]})

    await run(store, asker)

    assert asker.asked["q2"] == num_asked
    row = rows(store)["q2"]
    assert row["answer"] == (None if num_asked == 1 else "red")
    if num_asked == 1:
        assert row["abstentions"][0] == {"member": "member-0", "reason": "refusal"}
        assert {one["member"] for one in row["abstentions"]} < {f"member-{n}" for n in range(60)}


async def test_a_fault_that_outlasts_the_patience_ends_the_batch_and_whole_shards_stay(tmp_path: Path) -> None:
    store, asker = build_store(tmp_path, build_manifest(12)), FakeAsker({"q11": [FAULT] * 1_000})

    with pytest.raises(EnsembleError, match="member b: error: why"):
        await run(store, asker, concurrency=1)

    assert store.stored() == {0, 1}
    assert 10 < asker.asked["q11"] < 40


@pytest.mark.parametrize(
    "refusal",
    [
        InvalidRequestError("choices", "there are 9", "send at most 8"),
        InvalidRequestError("options.panel", "27 different texts are more than 26", "ask fewer members"),
        MessageTooLargeError("request", "it is too large", "send less"),
    ],
)
async def test_an_item_that_the_ensemble_refuses_has_no_answer_and_the_reason(
    tmp_path: Path, refusal: InvalidRequestError
) -> None:
    store, asker = build_store(tmp_path, build_manifest(5)), FakeAsker({"q2": [refusal]})

    await run(store, asker)

    assert asker.asked["q2"] == 1
    (row,) = [row for item_id, row in rows(store).items() if item_id == "q2"]
    assert (row["answer"], row["abstentions"]) == (None, [{"member": "", "reason": str(refusal)}])


async def test_an_error_that_asking_again_cannot_mend_ends_the_batch_at_once(tmp_path: Path) -> None:
    asker = FakeAsker({"q2": [UnknownNameError("ensemble", "there is no 'x'", "use another")]})

    with pytest.raises(UnknownNameError, match="there is no 'x'"):
        await run(build_store(tmp_path, build_manifest(5)), asker)

    assert asker.asked["q2"] == 1


async def test_missing_votes_are_accepted_after_some_tries_where_that_is_wanted(tmp_path: Path) -> None:
    store, asker = build_store(tmp_path, build_manifest(5)), FakeAsker({"q2": [FAULT] * 100})

    await run(store, asker, accept_missing=True)

    assert asker.asked["q2"] == ATTEMPTS_BEFORE_MISSING
    assert rows(store)["q2"]["answer"] == "blue"


@pytest.mark.parametrize(
    "failure",
    [
        QuorumError("default", 0, 2, "a: error, b: refusal"),
        MemberTimeoutError("judge", "it took too long"),
    ],
)
async def test_an_item_that_nobody_can_answer_is_left_out_after_the_patience_where_that_is_wanted(
    tmp_path: Path, failure: EnsembleError
) -> None:
    store, asker = build_store(tmp_path, build_manifest(5)), FakeAsker({"q2": [failure] * 1_000})

    await run(store, asker, accept_missing=True)

    found = rows(store)
    assert [row["answer"] for row in found.values()] == ["red", "red", None, "red", "red"]
    assert found["q2"]["abstentions"] == (
        [{"member": "a", "reason": "error"}, {"member": "b", "reason": "refusal"}]
        if isinstance(failure, QuorumError)
        else [{"member": "judge", "reason": "deadline"}]
    )


async def test_an_endpoint_that_is_gone_ends_the_batch_whatever_may_be_missing(tmp_path: Path) -> None:
    asker = FakeAsker({"q2": [EndpointError("here:1", "UNAVAILABLE", "gone")] * 1_000})

    with pytest.raises(EndpointError, match="gone"):
        await run(build_store(tmp_path, build_manifest(5)), asker, accept_missing=True)


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
