"""Asks every item of the shards that are not there yet, so many at a time, and keeps each shard when it is whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from ensemble.batch.answers import Answer, answer_from_decision, no_answer
from ensemble.batch.item_source import Shards
from ensemble.batch.items import BatchItem
from ensemble.batch.shard_store import ShardStore
from ensemble.calibration.ask_all import FIRST_PAUSE_S, LONGEST_PAUSE_S, first_of, is_passing
from ensemble.errors import (
    DefectError,
    EndpointError,
    EnsembleError,
    InvalidRequestError,
    MemberError,
    MemberRefusedError,
    MemberTimeoutError,
    MessageTooLargeError,
    QuorumError,
)
from ensemble.voting.ballot import OF_THE_WORLD, AbstentionReason
from ensemble.voting.decision import Decision

MAX_OPEN_SHARDS = 32
"""Shards that wait in memory for their last answers; then no new one is begun. Small ones may be more: see Schedule."""
ATTEMPTS_BEFORE_MISSING = 3
"""Times that an item is asked before an answer without some member is taken, where that is wanted."""

_OF_THE_ITEM = frozenset({AbstentionReason.REFUSAL.value, AbstentionReason.UNPARSEABLE.value})
_ITEM_FIELDS = ("prompt", "choices", "parameters", "options.panel")
"""What a request says of an item; a panel is at fault where the item has more texts than a judge compares."""


class Asker(Protocol):
    """Puts one item to an ensemble."""

    async def ask(self, item: BatchItem) -> Decision:
        """Have it voted on.

        Raises:
            EnsembleError: the ensemble could not be asked, or did not decide.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How items are asked: so many at a time, and for how long one that fails is asked again.

    ``accept_missing`` takes an answer that some member's fault is missing from, instead of asking on, and none at all
    where faults outlast the patience. There is room for ``MAX_OPEN_SHARDS``, and always for twice as many items as are
    asked at a time.
    """

    concurrency: int
    patience_s: float
    accept_missing: bool = False
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(slots=True, kw_only=True)
class _OpenShard:
    index: int
    answers: list[Answer | None]
    num_left: int


_Job = tuple[_OpenShard, int, BatchItem]


async def run_batch(
    shards: Shards,
    store: ShardStore,
    asker: Asker,
    *,
    schedule: Schedule,
    on_answered: Callable[[], None] = lambda: None,
) -> None:
    """Ask what is not stored; ``on_answered`` hears of each item.

    Raises:
        EnsembleError: an item could not be answered for longer than the patience lasts. Whole shards stay.
    """
    stored = await asyncio.to_thread(store.stored)
    work = _Work(store=store, asker=asker, schedule=schedule, on_answered=on_answered)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(work.feed(shards, stored))
            for _ in range(schedule.concurrency):
                group.create_task(work.run())
    except* EnsembleError as failures:
        raise first_of(failures) from failures
    if work.num_open:
        raise DefectError(f"{work.num_open} shards were begun and not ended")


@dataclass(slots=True, kw_only=True)
class _Work:
    store: ShardStore
    asker: Asker
    schedule: Schedule
    on_answered: Callable[[], None]
    num_open: int = 0
    _jobs: asyncio.Queue[_Job | None] = field(init=False)
    _room: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        concurrency = self.schedule.concurrency
        self._jobs = asyncio.Queue(maxsize=concurrency)
        self._room = asyncio.Semaphore(max(MAX_OPEN_SHARDS, -(-2 * concurrency // self.store.manifest.shard_items)))

    async def feed(self, shards: Shards, stored: frozenset[int]) -> None:
        """Read shard after shard, in a thread, and hand out the items of those that are not stored."""
        index = 0
        while items := await asyncio.to_thread(next, shards, ()):
            if index not in stored:
                await self._room.acquire()
                self.num_open += 1
                shard = _OpenShard(index=index, answers=[None] * len(items), num_left=len(items))
                for place, item in enumerate(items):
                    await self._jobs.put((shard, place, item))
            index += 1
        for _ in range(self.schedule.concurrency):
            await self._jobs.put(None)

    async def run(self) -> None:
        """Answer one item after another until none is left."""
        while (job := await self._jobs.get()) is not None:
            shard, place, item = job
            shard.answers[place] = await self._answer(item)
            shard.num_left -= 1
            self.on_answered()
            if not shard.num_left:
                answers = [answer for answer in shard.answers if answer is not None]
                await asyncio.to_thread(self.store.write_shard, shard.index, answers)
                self.num_open -= 1
                self._room.release()

    async def _answer(self, item: BatchItem) -> Answer:
        """Ask until every member has had its say; what only a restart or a rest can mend is waited for."""
        began_s, pause_s, num_attempts = self.schedule.clock(), FIRST_PAUSE_S, 0
        while True:
            num_attempts += 1
            is_enough = self.schedule.accept_missing and num_attempts >= ATTEMPTS_BEFORE_MISSING
            outcome = await self._ask_once(item, is_enough=is_enough)
            if isinstance(outcome, Answer):
                return outcome
            if self.schedule.clock() - began_s + pause_s > self.schedule.patience_s:
                return self._give_up(item, outcome)
            await self.schedule.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _ask_once(self, item: BatchItem, *, is_enough: bool) -> Answer | EnsembleError:
        """Give the answer, which may be none for good, or a fault to be waited out; ``is_enough`` takes what came."""
        try:
            decision = await self.asker.ask(item)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody ended the batch: a call under it was cut off, and with it would go the item.
            return EndpointError(self.store.manifest.ensemble, "CANCELLED", "a call was cut off")
        except EnsembleError as error:
            if declined := _declined(error):
                return no_answer(item.item_id, declined)
            if not is_passing(error) and not isinstance(error, MemberError | QuorumError):
                raise
            return error
        fault = None if is_enough else _fault(decision)
        return answer_from_decision(item.item_id, decision) if fault is None else fault

    def _give_up(self, item: BatchItem, failure: EnsembleError) -> Answer:
        """End the batch, or where that is wanted leave one item out that members always fail on."""
        if self.schedule.accept_missing and isinstance(failure, MemberError | QuorumError):
            return no_answer(item.item_id, _reasons(failure))
        raise failure


def _fault(decision: Decision) -> MemberError | None:
    """Tell which member's vote a fault kept away, if any: the answer might be another one with it."""
    for one in decision.abstentions:
        if one.reason in OF_THE_WORLD:
            return MemberError(one.member, f"{one.reason.value}: {one.detail}")
    return None


def _declined(error: EnsembleError) -> dict[str, str]:
    """Give the reasons where an item will never be answered, by member; nothing where asking again may help."""
    if isinstance(error, InvalidRequestError):
        is_of_item = isinstance(error, MessageTooLargeError) or error.field.startswith(_ITEM_FIELDS)
        return {"": str(error)} if is_of_item else {}
    if not isinstance(error, MemberRefusedError | QuorumError):
        return {}
    reasons = _reasons(error)
    return reasons if set(reasons.values()) <= _OF_THE_ITEM else {}


def _reasons(error: MemberError | QuorumError) -> dict[str, str]:
    """Give an error's reasons by member; of many, those that arrived whole, faults first."""
    if isinstance(error, QuorumError):
        # They are told as "member: reason"; names have no colons, commas or spaces, and a long text has a gap.
        parts = (part.rpartition(": ")[::2] for part in error.reasons.split(", "))
        return {member: reason for member, reason in parts if reason in set(AbstentionReason) and " " not in member}
    if isinstance(error, MemberRefusedError):
        reason = AbstentionReason.REFUSAL
    elif isinstance(error, MemberTimeoutError):
        reason = AbstentionReason.DEADLINE
    else:
        reason = AbstentionReason.ERROR
    return {error.member: reason.value}
