"""Asks every member about every item, a few items at a time, and stores each vote as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from ensemble.calibration.ballot_store import BallotStore
from ensemble.calibration.item_file import ItemSet
from ensemble.calibration.items import LabelledItem
from ensemble.calibration.journal import ItemKey
from ensemble.errors import (
    ConfigError,
    EndpointError,
    EnsembleError,
    OverloadedError,
    QuorumError,
    VotingUnavailableError,
)
from ensemble.voting.ballot import Vote

MAX_ATTEMPTS = 8
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
"""Pauses between attempts double up to this: some 15 s in all, within which a replica restarts."""

_PASSING_STATUSES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED"})

Sleep = Callable[[float], Awaitable[None]]


class Asker(Protocol):
    """Asks an ensemble one item."""

    def ask(self, item: LabelledItem, members: tuple[str, ...]) -> AsyncGenerator[Vote]:
        """Tell these members' votes as they come, raw and in any order; a member that fails abstains.

        Raises:
            EnsembleError: the ensemble could not be asked.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How many items are asked at a time, and how the pauses between attempts are spent."""

    concurrency: int
    sleep: Sleep = asyncio.sleep


async def ask_all(
    item_sets: Sequence[ItemSet],
    store: BallotStore,
    asker: Asker,
    *,
    schedule: Schedule,
    on_stored: Callable[[], None] = lambda: None,
) -> int:
    """Ask for the votes that are not stored yet, and give how many items that were; ``on_stored`` hears of each.

    Raises:
        EnsembleError: the endpoint failed for longer than the attempts last, or refused an item. What was stored stays.
    """
    pending = iter(
        [
            ((one.name, item.item_id), item)
            for one in item_sets
            for item in one.items
            if store.missing((one.name, item.item_id))
        ]
    )
    work = _Work(store=store, asker=asker, schedule=schedule, on_stored=on_stored)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work.run(pending)) for _ in range(schedule.concurrency)]
    except* EnsembleError as failures:
        # All failed for the endpoint's one reason; a group would hide the sentence.
        raise first_of(failures) from failures
    return sum(task.result() for task in tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    store: BallotStore
    asker: Asker
    schedule: Schedule
    on_stored: Callable[[], None]

    async def run(self, pending: Iterator[tuple[ItemKey, LabelledItem]]) -> int:
        """Ask one item after another until none is left; gives how many."""
        num_asked = 0
        for key, item in pending:
            await self._ask_with_patience(key, item)
            num_asked += 1
            self.on_stored()
        return num_asked

    async def _ask_with_patience(self, key: ItemKey, item: LabelledItem) -> None:
        pause_s = FIRST_PAUSE_S
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await self._ask_missing(key, item)
            except EnsembleError as error:
                if not is_passing(error):
                    raise
            await self.schedule.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return await self._ask_missing(key, item)

    async def _ask_missing(self, key: ItemKey, item: LabelledItem) -> None:
        """Ask those alone whose votes on the item are not stored: all, or what a kill or a failure left."""
        wanted = self.store.missing(key)
        try:
            async with aclosing(self.asker.ask(item, wanted)) as votes:
                async for vote in votes:
                    if vote.member not in self.store.missing(key):
                        raise _unfit(f"it told a vote of {vote.member} when asked for {', '.join(wanted)}")
                    self.store.add(key, (vote,))
        except (EndpointError, OverloadedError, QuorumError, VotingUnavailableError):
            # Everybody's silence, or votes that nobody counted: they were told before the call failed.
            if self.store.missing(key):
                raise
        if silent := self.store.missing(key):
            raise _unfit(f"it did not ask {', '.join(silent)}")


def is_passing(error: EnsembleError) -> bool:
    """Say whether asking again may help: the endpoint is full, away, or was cut off."""
    if isinstance(error, EndpointError):
        return error.status in _PASSING_STATUSES
    return isinstance(error, OverloadedError | VotingUnavailableError)


def _unfit(problem: str) -> ConfigError:
    return ConfigError(
        "the endpoint", problem, "serve the spec's ensemble without asking in stages, or leave --endpoint out"
    )


def first_of(failures: BaseExceptionGroup[EnsembleError]) -> EnsembleError:
    """Give the first error of a group, whose tasks failed for one reason."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, EnsembleError):
        raise TypeError("only errors of ours were let through")
    return error
