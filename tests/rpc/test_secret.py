from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from ensemble.rpc.secret import SECRET_KEY
from ensemble.v1 import member_service_pb2 as pb
from ensemble.v1.member_service_pb2 import DESCRIPTOR
from tests.rpc.systems import MAX_MESSAGE_BYTES, SECRET, build_echo, channel_to, member_running
from tests.rpc.wire import Metadata, check_facts, read_refusal, send, send_to_stream, text_field

SERVICE = DESCRIPTOR.services_by_name["MemberService"]
METHODS = [f"{SERVICE.full_name}/{method.name}" for method in SERVICE.methods]
GUARDED = [
    *METHODS,
    f"{SERVICE.full_name}/Unknown",
    "other.v1.Service/Method",
    "grpc.health.v1.Health/Check",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]
REQUEST = pb.CompleteRequest(prompt="one two").SerializeToString()
RAW_BY_METHOD = {
    "Complete": REQUEST,
    "StreamComplete": text_field(1, REQUEST),
    "Score": pb.ScoreRequest(prompt="one two", choices=["yes", "no"]).SerializeToString(),
    "ScoreMany": pb.ScoreManyRequest(
        requests=[pb.ScoreRequest(prompt="one two", choices=["yes", "no"])]
    ).SerializeToString(),
    "Embed": pb.EmbedRequest(texts=["one", "two"]).SerializeToString(),
    "GetStats": b"",
}
WRONG: list[Metadata] = [
    (),
    ((SECRET_KEY, ""),),
    ((SECRET_KEY, "wrong"),),
    ((SECRET_KEY, SECRET[:-1]),),
    ((SECRET_KEY, f"{SECRET}x"),),
    ((SECRET_KEY, SECRET.upper()),),
    (("another-key", SECRET),),
    ((SECRET_KEY, "wrong"), (SECRET_KEY, SECRET)),
]


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with member_running(build_echo()) as address, channel_to(address) as open_channel:
        yield open_channel


@pytest.mark.parametrize("metadata", WRONG, ids=repr)
@pytest.mark.parametrize("path", GUARDED)
async def test_a_call_without_the_secret_is_refused_whatever_it_calls(
    channel: grpc.aio.Channel, path: str, metadata: Metadata
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(channel, path, b"", metadata)

    refusal = read_refusal(caught.value)
    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
    check_facts(refusal, reason="AuthenticationError", field=SECRET_KEY)
    assert SECRET not in f"{refusal}"


async def test_a_stream_without_the_secret_is_refused_and_reaches_no_engine() -> None:
    engine = build_echo()
    async with member_running(engine) as address, channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send_to_stream(
                channel, f"{SERVICE.full_name}/StreamComplete", RAW_BY_METHOD["StreamComplete"], WRONG[2]
            )

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert engine.stats().prompt_tokens == 0


@pytest.mark.parametrize("path", METHODS)
async def test_a_call_with_the_secret_is_served(channel: grpc.aio.Channel, path: str) -> None:
    raw = RAW_BY_METHOD[path.rpartition("/")[2]]
    responses = (
        await send_to_stream(channel, path, raw, ((SECRET_KEY, SECRET),))
        if "Stream" in path
        else [await send(channel, path, raw, ((SECRET_KEY, SECRET),))]
    )

    assert responses
    assert all(responses)


@pytest.mark.parametrize("path", ["grpc.health.v1.Health/Check", f"{SERVICE.full_name}/Unknown"])
async def test_what_a_member_does_not_serve_is_unimplemented_with_the_secret(
    channel: grpc.aio.Channel, path: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(channel, path, b"", ((SECRET_KEY, SECRET),))

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# The rows: a method and bytes that are no request of it.
BAD = [
    ("Complete", text_field(2, b"\xff"), grpc.StatusCode.INVALID_ARGUMENT, "prompt"),
    ("Score", text_field(3, b"\xff"), grpc.StatusCode.INVALID_ARGUMENT, "choices"),
    ("Score", b"\x07", grpc.StatusCode.INVALID_ARGUMENT, "message"),
    ("GetStats", b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "message"),
    ("Complete", text_field(2, b"x" * MAX_MESSAGE_BYTES), grpc.StatusCode.RESOURCE_EXHAUSTED, "message"),
]


@pytest.mark.parametrize(("method", "raw", "code", "field"), BAD)
async def test_a_bad_request_with_the_secret_is_refused_with_its_facts(
    channel: grpc.aio.Channel, method: str, raw: bytes, code: grpc.StatusCode, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(channel, f"{SERVICE.full_name}/{method}", raw, ((SECRET_KEY, SECRET),))

    refusal = read_refusal(caught.value)
    assert refusal.code is code
    check_facts(refusal, reason=refusal.reason, field=field)


async def test_a_prompt_that_does_not_fit_the_member_is_a_failed_precondition(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(
            channel,
            f"{SERVICE.full_name}/Score",
            pb.ScoreRequest(prompt="?", choices=[" "]).SerializeToString(),
            ((SECRET_KEY, SECRET),),
        )

    refusal = read_refusal(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MemberRefusedError")
    assert refusal.facts["member"] == "a"
