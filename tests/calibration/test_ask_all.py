"""Every item is asked once, a few at a time, through the failures that pass."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ensemble.calibration.ask_all import LONGEST_PAUSE_S, MAX_ATTEMPTS, Schedule, ask_all
from ensemble.calibration.ballot_store import open_store
from ensemble.calibration.items import LabelledItem
from ensemble.errors import (
    ConfigError,
    EndpointError,
    EnsembleError,
    InvalidRequestError,
    OverloadedError,
    QuorumError,
)
from ensemble.voting.ballot import Vote
from tests.calibration.evaluations import MEMBERS, ballot, choice_items, item_set, manifest_of

SET = item_set(choice_items(12))


@dataclass(slots=True, kw_only=True)
class FakeAsker:
    """Answers at once, after the failures that were ordered; each comes before, between or after the votes."""

    failures: list[EnsembleError] = field(default_factory=list)
    num_votes_before_failure: int = 0
    members: tuple[str, ...] = MEMBERS
    asked: Counter[str] = field(default_factory=Counter)
    asked_members: Counter[tuple[str, str]] = field(default_factory=Counter)
    most_at_once: int = 0
    num_now: int = 0

    async def ask(self, item: LabelledItem, members: tuple[str, ...]) -> AsyncGenerator[Vote]:
        self.asked[item.item_id] += 1
        self.asked_members.update((item.item_id, member) for member in members)
        self.num_now += 1
        self.most_at_once = max(self.most_at_once, self.num_now)
        await asyncio.sleep(0)
        self.num_now -= 1
        # The slowest first: arrival has no order.
        told = [ballot(member, item, 0) for member in reversed(self.members) if member in members]
        failure = self.failures.pop() if self.failures else None
        for vote in told[: self.num_votes_before_failure] if failure else told:
            yield vote
        if failure:
            raise failure


@dataclass(slots=True)
class FakeSleep:
    pauses_s: list[float] = field(default_factory=list)

    async def __call__(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)


def schedule(*, concurrency: int = 3, sleep: FakeSleep | None = None) -> Schedule:
    return Schedule(concurrency=concurrency, sleep=sleep or FakeSleep())


async def test_every_item_is_asked_once_and_no_more_at_a_time_than_allowed(tmp_path: Path) -> None:
    asker, heard = FakeAsker(), Counter[str]()

    with open_store(tmp_path, manifest_of(SET), (SET,)) as store:
        num_asked = await ask_all((SET,), store, asker, schedule=schedule(), on_stored=lambda: heard.update(["item"]))

    assert num_asked == 12 == heard["item"]
    assert set(asker.asked.values()) == {1}
    assert asker.most_at_once == 3


async def test_what_is_stored_is_not_asked_again(tmp_path: Path) -> None:
    with open_store(tmp_path, manifest_of(SET), (SET,)) as store:
        await ask_all((SET,), store, FakeAsker(), schedule=schedule())
    asker = FakeAsker()

    with open_store(tmp_path, manifest_of(SET), (SET,)) as store:
        num_asked = await ask_all((SET,), store, asker, schedule=schedule())

    assert num_asked == 0
    assert not asker.asked


@pytest.mark.parametrize(
    "failure",
    [OverloadedError(3), EndpointError("x", "UNAVAILABLE", "it restarts"), EndpointError("x", "CANCELLED", "")],
)
async def test_a_failure_that_passes_is_waited_out(failure: EnsembleError, tmp_path: Path) -> None:
    sleep = FakeSleep()
    asker = FakeAsker(failures=[failure] * (MAX_ATTEMPTS - 1))

    with open_store(tmp_path, manifest_of(SET), (SET,)) as store:
        await ask_all((SET,), store, asker, schedule=schedule(concurrency=1, sleep=sleep))
        num_stored = store.num_stored

    assert num_stored == 12
    assert asker.asked["q0"] == MAX_ATTEMPTS
    assert sleep.pauses_s == sorted(sleep.pauses_s)
    assert sleep.pauses_s[-1] == LONGEST_PAUSE_S


async def test_a_failure_that_stays_ends_the_evaluation_and_keeps_what_was_stored(tmp_path: Path) -> None:
    failures: list[EnsembleError] = [OverloadedError(3)] * MAX_ATTEMPTS
    asker = FakeAsker()

    with open_store(tmp_path, manifest_of(SET), (SET,)) as store:
        await ask_all((item_set(SET.items[:5]),), store, asker, schedule=schedule())
        asker.failures = failures
        with pytest.raises(OverloadedError):
            await ask_all((SET,), store, asker, schedule=schedule(concurrency=1))
        num_stored = store.num_stored

    assert num_stored == 5


async def test_a_refused_item_is_not_asked_again(tmp_path: Path) -> None:
    asker = FakeAsker(failures=[InvalidRequestError("prompt", "it is empty", "send one")])

    with open_store(tmp_path, manifest_of(SET), (SET,)) as store, pytest.raises(InvalidRequestError):
        await ask_all((SET,), store, asker, schedule=schedule(concurrency=1))

    assert asker.asked == {"q0": 1}


async def test_an_endpoint_that_spares_a_member_is_refused(tmp_path: Path) -> None:
    with (
        open_store(tmp_path, manifest_of(SET), (SET,)) as store,
        pytest.raises(ConfigError, match="it did not ask b"),
    ):
        await ask_all((SET,), store, FakeAsker(members=("a",)), schedule=schedule())


async def test_a_failure_between_votes_has_only_the_missing_members_asked_again(tmp_path: Path) -> None:
    failures: list[EnsembleError] = [EndpointError("x", "UNAVAILABLE", "it restarts")]
    asker = FakeAsker(failures=failures, num_votes_before_failure=1)

    with open_store(tmp_path, manifest_of(SET), (SET,)) as store:
        await ask_all((SET,), store, asker, schedule=schedule(concurrency=1))
        num_stored = store.num_stored

    assert num_stored == 12
    assert asker.asked_members == Counter({(item.item_id, m): 1 for item in SET.items for m in MEMBERS}) + Counter(
        {("q0", "a"): 1}
    )


async def test_votes_that_came_before_a_kill_are_not_asked_for_again(tmp_path: Path) -> None:
    failures: list[EnsembleError] = [InvalidRequestError("prompt", "it is odd", "send another")]
    with open_store(tmp_path, manifest_of(SET), (SET,)) as store:
        broken = FakeAsker(failures=failures, num_votes_before_failure=1)
        with pytest.raises(InvalidRequestError):
            await ask_all((SET,), store, broken, schedule=schedule(concurrency=1))
    asker = FakeAsker()

    with open_store(tmp_path, manifest_of(SET), (SET,)) as store:
        await ask_all((SET,), store, asker, schedule=schedule())

    assert asker.asked_members["q0", "b"] == 0
    assert asker.asked_members["q0", "a"] == 1
    assert asker.asked_members["q1", "b"] == 1


async def test_a_failure_after_all_votes_is_none(tmp_path: Path) -> None:
    failures: list[EnsembleError] = [QuorumError("default", 0, 2, "all failed")]
    asker = FakeAsker(failures=failures, num_votes_before_failure=len(MEMBERS))

    with open_store(tmp_path, manifest_of(SET), (SET,)) as store:
        await ask_all((SET,), store, asker, schedule=schedule())

    assert set(asker.asked.values()) == {1}


async def test_an_endpoint_that_asks_a_stranger_is_refused(tmp_path: Path) -> None:
    @dataclass(slots=True)
    class Strange(FakeAsker):
        async def ask(self, item: LabelledItem, members: tuple[str, ...]) -> AsyncGenerator[Vote]:
            yield ballot("stranger", item, 0)

    with (
        open_store(tmp_path, manifest_of(SET), (SET,)) as store,
        pytest.raises(ConfigError, match="it told a vote of stranger when asked for a, b"),
    ):
        await ask_all((SET,), store, Strange(), schedule=schedule())
