"""Another replica is tried when one is away, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from ensemble.engines.engine import EngineStats
from ensemble.errors import (
    MemberBusyError,
    MemberError,
    MemberRefusedError,
    MemberTimeoutError,
    MemberUnavailableError,
)
from ensemble.generation import CompletionChunk, GenerationRequest, ScoringRequest
from ensemble.router.ports import ReplicaPicker, ReplicaReport
from ensemble.rpc.member_client import GrpcMemberClient
from ensemble.rpc.member_servicer import MemberServicer
from ensemble.rpc.server import GrpcServer, Service
from ensemble.v1 import member_service_pb2
from tests.fakes.replica_picker import FakeReplicaPicker
from tests.ports import HOST
from tests.rpc.systems import (
    LONG_S,
    MAX_MESSAGE_BYTES,
    NOBODY,
    SECRET,
    build_caller,
    build_echo,
    channels_open,
    member_running,
    wait_until,
)

GENERATION = GenerationRequest(request_id="r", prompt="one two three")
SCORING = ScoringRequest(request_id="r", prompt="Is it so?", choices=("yes", "no"))
IMPATIENT_S = 0.2
"""How long a call looks for a replica where there is none to find."""


@asynccontextmanager
async def client_of(
    picker: ReplicaPicker, *, secret: str = SECRET, pick_timeout_s: float = LONG_S
) -> AsyncIterator[GrpcMemberClient]:
    async with channels_open() as channels:
        yield GrpcMemberClient(build_caller(channels, picker, pick_timeout_s=pick_timeout_s), member="a", secret=secret)


async def read(client: GrpcMemberClient, *, timeout_s: float = LONG_S) -> list[CompletionChunk]:
    async with aclosing(client.stream(GENERATION, timeout_s=timeout_s)) as chunks:
        return [chunk async for chunk in chunks]


@pytest.mark.parametrize("num_away", [1, 2, 3])
async def test_another_replica_answers_when_some_are_away(num_away: int) -> None:
    async with member_running(build_echo()) as address:
        picker = FakeReplicaPicker(addresses=(*(NOBODY,) * num_away, address))
        async with client_of(picker) as client:
            scores = await client.score(SCORING, timeout_s=LONG_S)
            completion = await client.complete(GENERATION, timeout_s=LONG_S)

    assert len(scores.logprobs) == 2
    assert completion.text == "one two three"
    assert picker.picked == [*(NOBODY,) * num_away, address, address]


async def test_a_stream_too_starts_on_another_replica_when_one_is_away() -> None:
    async with member_running(build_echo()) as address:
        picker = FakeReplicaPicker(addresses=(NOBODY, address))
        async with client_of(picker) as client:
            chunks = await read(client)

    assert "".join(chunk.text for chunk in chunks) == "one two three"
    assert picker.picked == [NOBODY, address]


async def test_when_all_attempts_find_nobody_the_member_is_unavailable() -> None:
    picker = FakeReplicaPicker(addresses=(NOBODY,))
    async with client_of(picker, pick_timeout_s=IMPATIENT_S) as client:
        with pytest.raises(MemberUnavailableError) as caught:
            await client.score(SCORING, timeout_s=LONG_S)

    assert caught.value.member == "a"
    assert len(picker.picked) > 1


@pytest.mark.parametrize(
    "picker", [FakeReplicaPicker(), FakeReplicaPicker(error=MemberUnavailableError("a", "the deployment is gone"))]
)
async def test_without_a_replica_to_choose_the_member_is_unavailable(picker: FakeReplicaPicker) -> None:
    async with client_of(picker, pick_timeout_s=IMPATIENT_S) as client:
        with pytest.raises(MemberUnavailableError):
            await client.complete(GENERATION, timeout_s=LONG_S)


async def test_a_replica_that_says_no_is_not_asked_again() -> None:
    async with member_running(build_echo(max_waiting=0)) as busy, member_running(build_echo(fail="error")) as broken:
        for address, kind in ((busy, MemberBusyError), (broken, MemberError)):
            picker = FakeReplicaPicker(addresses=(address,))
            async with client_of(picker) as client:
                with pytest.raises(MemberError) as caught:
                    await client.score(SCORING, timeout_s=LONG_S)

            assert type(caught.value) is kind
            assert set(picker.picked) == {address}


async def test_another_replica_is_asked_when_one_is_full() -> None:
    async with (
        member_running(build_echo(max_waiting=0)) as full,
        member_running(build_echo()) as free,
        client_of(FakeReplicaPicker(addresses=(full, free))) as client,
    ):
        scores = await client.score(SCORING, timeout_s=LONG_S)

    assert len(scores.logprobs) == 2


async def test_a_channel_that_failed_does_not_take_the_newer_one_with_it() -> None:
    async with channels_open() as channels:
        old = channels.get(NOBODY)
        channels.drop(NOBODY, old)
        new = channels.get(NOBODY)

        channels.drop(NOBODY, old)

        assert channels.get(NOBODY) is new


async def test_a_refusal_keeps_its_kind_and_its_words() -> None:
    no_choice = ScoringRequest(request_id="r", prompt="?", choices=(" ",))
    async with (
        member_running(build_echo()) as address,
        client_of(FakeReplicaPicker(addresses=(address,))) as client,
    ):
        with pytest.raises(MemberRefusedError) as caught:
            await client.score(no_choice, timeout_s=LONG_S)

    assert "choice" in caught.value.problem


async def test_a_wrong_secret_is_the_members_error_and_not_a_vote() -> None:
    async with (
        member_running(build_echo()) as address,
        client_of(FakeReplicaPicker(addresses=(address,)), secret=SECRET[1:]) as client,
    ):
        with pytest.raises(MemberError):
            await client.complete(GENERATION, timeout_s=LONG_S)
        with pytest.raises(MemberError):
            await read(client)


async def test_a_replica_that_is_too_slow_is_too_late_and_lets_the_request_go() -> None:
    engine = build_echo(delay_s=60.0)
    async with (
        member_running(engine) as address,
        client_of(FakeReplicaPicker(addresses=(address,))) as client,
    ):
        calls = (client.score(SCORING, timeout_s=2.0), client.complete(GENERATION, timeout_s=2.0))
        attempts = [asyncio.ensure_future(call) for call in (*calls, read(client, timeout_s=2.0))]
        await wait_until(lambda: engine.stats().running_requests == 3)
        await asyncio.wait(attempts)
        await wait_until(lambda: engine.stats().aborted_requests == 3)

    assert [type(attempt.exception()) for attempt in attempts] == [MemberTimeoutError] * 3


@dataclass(slots=True)
class BreaksOff:
    """An engine that says one word and then waits for ever: its server is taken away meanwhile."""

    num_generations: int = 0
    has_spoken: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[CompletionChunk]:
        self.num_generations += 1
        yield CompletionChunk(text="one", completion_tokens=1, prompt_tokens=1, logprob=-1.0)
        self.has_spoken.set()
        await asyncio.Event().wait()

    def stats(self) -> EngineStats:
        return EngineStats()


async def test_a_stream_that_breaks_off_is_never_begun_again() -> None:
    engine = BreaksOff()
    service = Service(
        descriptor=member_service_pb2.DESCRIPTOR.services_by_name["MemberService"],
        servicer=MemberServicer("a", engine),  # type: ignore[arg-type]
    )
    server = GrpcServer([service], max_message_bytes=MAX_MESSAGE_BYTES, secret=SECRET)
    await server.start(HOST, 0)
    heard: list[str] = []

    async def listen(client: GrpcMemberClient) -> None:
        async with aclosing(client.stream(GENERATION, timeout_s=LONG_S)) as chunks:
            async for chunk in chunks:
                heard.append(chunk.text)  # noqa: PERF401 - an error follows

    async with member_running(build_echo()) as sound:
        picker = FakeReplicaPicker(addresses=(f"{HOST}:{server.port}", sound))
        async with client_of(picker) as client:
            listening = asyncio.create_task(listen(client))
            await engine.has_spoken.wait()
            await server.stop(grace_s=0.0)
            with pytest.raises(MemberUnavailableError):
                await listening

    assert heard == ["one"]
    assert engine.num_generations == 1
    assert picker.picked == [f"{HOST}:{server.port}"]


async def test_reports_come_from_the_picker_and_are_late_when_it_is_silent() -> None:
    report = ReplicaReport(replica_id="one", stats=EngineStats(finished_requests=3))
    async with client_of(FakeReplicaPicker(addresses=(NOBODY,), replica_reports=(report,))) as client:
        reports = await client.reports(timeout_s=LONG_S)
    async with client_of(FakeReplicaPicker()) as client:
        with pytest.raises(MemberTimeoutError):
            await client.reports(timeout_s=0.05)

    assert reports == (report,)


async def test_many_calls_at_once_share_one_connection_and_all_are_answered() -> None:
    engine = build_echo(delay_s=0.02)
    async with (
        member_running(engine) as address,
        client_of(FakeReplicaPicker(addresses=(address,))) as client,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(client.complete(GENERATION, timeout_s=LONG_S)) for _ in range(100)]

    assert {task.result().text for task in tasks} == {"one two three"}
    assert engine.stats().max_batch > 1


@dataclass(slots=True, kw_only=True)
class Ends:
    """An engine whose first call ends with a bare status, as gRPC's own server ends calls when it stops."""

    code: grpc.StatusCode
    num_calls: int = 0

    async def Score(  # noqa: N802 - gRPC's name
        self, request: member_service_pb2.ScoreRequest, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> member_service_pb2.ScoreResponse:
        self.num_calls += 1
        if self.num_calls == 1:
            await context.abort(self.code, "")
        return member_service_pb2.ScoreResponse(logprobs=[-1.0, -2.0], choice_tokens=[1, 1])

    Complete = StreamComplete = ScoreMany = Embed = GetStats = Score


@asynccontextmanager
async def ending(code: grpc.StatusCode) -> AsyncIterator[tuple[Ends, str]]:
    servicer = Ends(code=code)
    service = Service(descriptor=member_service_pb2.DESCRIPTOR.services_by_name["MemberService"], servicer=servicer)
    server = GrpcServer([service], max_message_bytes=MAX_MESSAGE_BYTES, secret=SECRET)
    await server.start(HOST, 0)
    yield servicer, f"{HOST}:{server.port}"
    await server.stop(grace_s=0.0)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_call_that_a_stopping_replica_never_began_is_made_again(code: grpc.StatusCode) -> None:
    async with (
        ending(code) as (servicer, address),
        client_of(FakeReplicaPicker(addresses=(address,))) as client,
    ):
        scores = await client.score(SCORING, timeout_s=LONG_S)

    assert scores.logprobs == (-1.0, -2.0)
    assert servicer.num_calls == 2


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED]
)
async def test_a_call_that_failed_otherwise_is_not_made_again(code: grpc.StatusCode) -> None:
    async with (
        ending(code) as (servicer, address),
        client_of(FakeReplicaPicker(addresses=(address,))) as client,
    ):
        with pytest.raises(MemberError):
            await client.score(SCORING, timeout_s=LONG_S)

    assert servicer.num_calls == 1
