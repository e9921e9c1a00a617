"""Scorings that are asked for in one moment share a call, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from ensemble.engines.config import EchoEngineConfig
from ensemble.engines.echo import EchoEngine
from ensemble.errors import (
    InvalidRequestError,
    MemberBusyError,
    MemberError,
    MemberRefusedError,
    MemberTimeoutError,
    MemberUnavailableError,
)
from ensemble.generation import ChoiceScores, ScoringRequest
from ensemble.rpc.block_client import BlockMemberClient
from ensemble.rpc.member_client import GrpcMemberClient
from tests.fakes.replica_picker import FakeReplicaPicker
from tests.rpc.systems import (
    LONG_S,
    NOBODY,
    SECRET,
    build_caller,
    build_echo,
    channels_open,
    member_running,
    wait_until,
)

MAX_BLOCK = 4
IMPATIENT_S = 0.2
"""How long a call looks for a replica where there is none to find."""


class CountingClient(GrpcMemberClient):
    """Remembers how many requests each call had."""

    sizes: list[int]

    async def score_many(
        self, requests: Sequence[ScoringRequest], *, timeout_s: float
    ) -> tuple[ChoiceScores | MemberError, ...]:
        self.sizes.append(len(requests))
        return await super().score_many(requests, timeout_s=timeout_s)


class PromptEngine(EchoEngine):
    """Does what the prompt says, and otherwise answers."""

    def __init__(self) -> None:
        super().__init__(EchoEngineConfig(), member="a")
        self.num_cancelled = 0

    async def score(self, request: ScoringRequest) -> ChoiceScores:
        match request.prompt:
            case "slow":
                await self._wait_for_ever()
            case "full":
                raise MemberBusyError("a", "there is no room")
            case "defect":
                raise KeyError(request.prompt)
            case "bad":
                raise InvalidRequestError("prompt", "it is bad", "send another")
            case "late":
                raise TimeoutError
        return await super().score(request)

    async def _wait_for_ever(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.num_cancelled += 1


@asynccontextmanager
async def client_of(
    *addresses: str, max_block: int = MAX_BLOCK, pick_timeout_s: float = LONG_S
) -> AsyncIterator[tuple[BlockMemberClient, CountingClient]]:
    picker = FakeReplicaPicker(addresses=addresses)
    async with channels_open() as channels:
        caller = build_caller(channels, picker, pick_timeout_s=pick_timeout_s)
        counting = CountingClient(caller, member="a", secret=SECRET)
        counting.sizes = []
        async with BlockMemberClient(counting, max_block=max_block) as client:
            yield client, counting


@asynccontextmanager
async def system_of(
    engine: EchoEngine, *, max_block: int = MAX_BLOCK
) -> AsyncIterator[tuple[BlockMemberClient, CountingClient]]:
    async with member_running(engine) as address, client_of(address, max_block=max_block) as clients:
        yield clients


def question(number: int, *, prompt: str = "", choices: tuple[str, ...] = ("yes", "no")) -> ScoringRequest:
    return ScoringRequest(request_id=f"r{number}", prompt=prompt or f"Question {number}?", choices=choices)


async def ask(
    client: BlockMemberClient, requests: Sequence[ScoringRequest], *, timeout_s: float = LONG_S
) -> list[ChoiceScores | BaseException]:
    tasks = [asyncio.create_task(client.score(request, timeout_s=timeout_s)) for request in requests]
    await asyncio.wait(tasks)
    return [task.exception() or task.result() for task in tasks]


@pytest.mark.parametrize(("num_asked", "sizes"), [(1, [1]), (3, [3]), (4, [4]), (6, [4, 2]), (9, [4, 4, 1])])
async def test_what_is_asked_together_shares_calls_and_each_gets_its_own_scores(
    num_asked: int, sizes: list[int]
) -> None:
    requests = [question(number) for number in range(num_asked)]

    async with system_of(build_echo()) as (client, counting):
        together = await ask(client, requests)
        alone = [await counting.score(request, timeout_s=LONG_S) for request in requests]

    assert together == alone
    assert counting.sizes == sizes


async def test_what_is_asked_later_does_not_wait_for_a_call_under_way() -> None:
    async with system_of(build_echo(delay_s=0.05)) as (client, counting):
        first = asyncio.create_task(client.score(question(0), timeout_s=LONG_S))
        await wait_until(lambda: bool(counting.sizes))
        await ask(client, [question(1)])
        await first

    assert counting.sizes == [1, 1]


async def test_a_scoring_that_is_refused_fails_alone() -> None:
    requests = [question(0), question(1, choices=()), question(2)]

    async with system_of(build_echo()) as (client, counting):
        good, refused, also_good = await ask(client, requests)

    assert counting.sizes == [3]
    assert isinstance(good, ChoiceScores)
    assert isinstance(also_good, ChoiceScores)
    assert isinstance(refused, MemberRefusedError)
    assert refused.args == ("a", "a choice has no tokens, or there are no choices")


async def test_those_for_whom_there_is_no_room_fail_alone() -> None:
    async with system_of(PromptEngine()) as (client, counting):
        outcomes = await ask(client, [question(0), question(1, prompt="full"), question(2)])

    assert [type(one) for one in outcomes] == [ChoiceScores, MemberBusyError, ChoiceScores]
    assert counting.sizes == [3]


async def test_those_for_whom_there_is_no_room_are_asked_again_of_another_replica() -> None:
    async with (
        member_running(build_echo(max_waiting=0)) as full,
        member_running(build_echo()) as free,
        client_of(full, free) as (client, counting),
    ):
        outcomes = await ask(client, [question(number) for number in range(3)])

    assert [type(one) for one in outcomes] == [ChoiceScores] * 3
    assert counting.sizes == [3]


async def test_one_that_is_late_does_not_make_its_neighbours_late() -> None:
    engine = PromptEngine()

    async with system_of(engine) as (client, _):
        quick, slow, also_quick = await ask(
            client, [question(0), question(1, prompt="slow"), question(2)], timeout_s=5.0
        )
        await wait_until(lambda: engine.num_cancelled == 1)

    assert isinstance(quick, ChoiceScores)
    assert isinstance(slow, MemberTimeoutError)
    assert isinstance(also_quick, ChoiceScores)


@pytest.mark.parametrize("prompt", ["defect", "bad", "late"])
async def test_an_error_that_nobody_foresaw_fails_one_scoring_alone(prompt: str) -> None:
    async with system_of(PromptEngine()) as (client, counting):
        good, failed, also_good = await ask(client, [question(0), question(1, prompt=prompt), question(2)])

    assert counting.sizes == [3]
    assert isinstance(good, ChoiceScores)
    assert isinstance(also_good, ChoiceScores)
    assert type(failed) is MemberError


async def test_an_error_that_is_no_member_s_reaches_everybody_who_waits() -> None:
    async with system_of(build_echo()) as (client, _):
        outcomes = await ask(client, [question(0), question(1, choices=(7,))])  # type: ignore[arg-type]

    assert [type(one) for one in outcomes] == [TypeError] * 2


async def test_a_block_of_one_is_a_call_of_its_own() -> None:
    async with system_of(build_echo(), max_block=1) as (client, counting):
        await ask(client, [question(number) for number in range(3)])

    assert counting.sizes == [1] * 3


async def test_what_nobody_waits_for_before_its_call_is_not_asked() -> None:
    async with system_of(build_echo()) as (client, counting):
        given_up = asyncio.create_task(client.score(question(0), timeout_s=LONG_S))
        await asyncio.sleep(0)
        given_up.cancel()
        await ask(client, [question(1)])

    assert counting.sizes == [1]


async def test_a_member_that_is_away_or_late_is_so_for_the_whole_block() -> None:
    async with client_of(NOBODY, pick_timeout_s=IMPATIENT_S) as (client, _):
        away = await ask(client, [question(0), question(1)])
    async with system_of(build_echo(delay_s=LONG_S)) as (client, _):
        late = await ask(client, [question(0), question(1)], timeout_s=0.05)

    assert [type(one) for one in away] == [MemberUnavailableError] * 2
    assert [type(one) for one in late] == [MemberTimeoutError] * 2


async def test_who_stops_waiting_leaves_the_others_alone() -> None:
    async with system_of(build_echo(delay_s=0.05)) as (client, counting):
        tasks = [asyncio.create_task(client.score(question(number), timeout_s=LONG_S)) for number in range(2)]
        await wait_until(lambda: bool(counting.sizes))
        tasks[0].cancel()
        scores = await tasks[1]

    assert scores.prompt_tokens == 2
    assert tasks[0].cancelled()


async def test_leaving_ends_what_is_under_way_down_to_the_engine() -> None:
    engine = build_echo(delay_s=LONG_S)

    async with member_running(engine) as address:
        async with client_of(address) as (client, _):
            tasks = [asyncio.create_task(client.score(question(number), timeout_s=LONG_S)) for number in range(2)]
            await wait_until(lambda: engine.stats().running_requests == 2)
        await asyncio.wait(tasks)
        await wait_until(lambda: engine.stats().aborted_requests == 2)

    assert all(task.cancelled() for task in tasks)
