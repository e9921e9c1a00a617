"""Ensembles for batches to ask: what fails at first, what never answers, what answers a crowd."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ensemble.batch.answers import Answer
from ensemble.batch.items import BatchItem
from ensemble.batch.run_batch import Asker, Schedule, run_batch
from ensemble.batch.shard_store import ShardStore
from ensemble.errors import (
    EnsembleError,
)
from ensemble.voting.ballot import AbstentionReason
from ensemble.voting.decision import Decision
from tests.batch.batches import build_decision, build_items

SHARD_ITEMS = 4
PATIENCE_S = 60.0
LONG_S = 60.0
FAULT = build_decision("blue", silent=[("b", AbstentionReason.ERROR)])
"""A decision that a fault kept a vote from."""


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
