"""Every request that cannot be served, over the wire, as one table."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest

from ensemble.v1 import ensemble_service_pb2 as pb
from ensemble.v1 import generation_pb2, vote_pb2
from tests.router.panels import build_ensemble
from tests.rpc.systems import LIMITS, MAX_MESSAGE_BYTES, Endpoint, build_echo, channel_to, endpoint_running
from tests.rpc.wire import ENSEMBLE_SERVICE, check_facts, read_refusal, send, send_to_stream, text_field

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequestError")
UNKNOWN = (grpc.StatusCode.NOT_FOUND, "UnknownNameError")
TOO_LARGE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "MessageTooLargeError")
NOT_UTF8 = b"caf\xe9"
GOOD = pb.ClassifyRequest(prompt="Is it so?", choices=["yes", "no"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A request's bytes for one method, and how they must be refused."""

    name: str
    method: str
    raw: bytes
    verdict: tuple[grpc.StatusCode, str] = INVALID
    field: str


def generate(name: str, field: str, verdict: tuple[grpc.StatusCode, str] = INVALID, **fields: object) -> Bad:
    request = pb.GenerateRequest(**{"prompt": "Say it.", **fields})  # type: ignore[arg-type]
    return Bad(name=name, method="Generate", raw=request.SerializeToString(), verdict=verdict, field=field)


def classify(name: str, field: str, verdict: tuple[grpc.StatusCode, str] = INVALID, **fields: object) -> Bad:
    request = pb.ClassifyRequest(**{"prompt": "Is it so?", "choices": ["yes", "no"], **fields})  # type: ignore[arg-type]
    return Bad(name=name, method="Classify", raw=request.SerializeToString(), verdict=verdict, field=field)


def parameter(name: str, **fields: object) -> Bad:
    (field,) = fields
    parameters = generation_pb2.GenerationParameters(**fields)  # type: ignore[arg-type]
    return generate(name, f"parameters.{field}", parameters=parameters)


def quorum(name: str, **fields: object) -> Bad:
    (field,) = fields
    options = pb.VoteOptions(quorum=vote_pb2.Quorum(**fields))  # type: ignore[arg-type]
    return classify(name, f"options.quorum.{field}", options=options)


def raw(name: str, method: str, field: str, sent: bytes) -> Bad:
    return Bad(name=name, method=method, raw=sent, field=field)


BAD = [
    generate("empty prompt", "prompt", prompt=""),
    generate("blank prompt", "prompt", prompt=" \n"),
    generate("long prompt", "prompt", prompt="x" * (LIMITS.max_prompt_chars + 1)),
    generate("unknown ensemble", "ensemble", UNKNOWN, ensemble="other"),
    generate("very long unknown ensemble", "ensemble", UNKNOWN, ensemble="x" * 30_000),
    generate("unknown member", "options.panel[1]", UNKNOWN, options=pb.VoteOptions(panel=["a", "nobody"])),
    generate("very long unknown member", "options.panel[0]", UNKNOWN, options=pb.VoteOptions(panel=["é" * 15_000])),
    generate("member twice", "options.panel[1]", options=pb.VoteOptions(panel=["a", "a"])),
    generate("unknown strategy", "options.strategy", UNKNOWN, options=pb.VoteOptions(strategy="dice")),
    generate("very long strategy", "options.strategy", UNKNOWN, options=pb.VoteOptions(strategy="\0" * 10_000)),
    generate("strategy for choices", "options.strategy", options=pb.VoteOptions(strategy="soft_vote")),
    classify("strategy for texts", "options.strategy", options=pb.VoteOptions(strategy="mbr")),
    classify("classify: empty prompt", "prompt", prompt=""),
    classify("no choices", "choices", choices=[]),
    classify("one choice", "choices", choices=["yes"]),
    classify("too many choices", "choices", choices=list("abcde")),
    classify("empty choice", "choices[1]", choices=["yes", ""]),
    classify("duplicate choices", "choices[2]", choices=["yes", "no", "yes"]),
    classify("long choice", "choices[0]", choices=["x" * 51, "no"]),
    classify("unknown ensemble for choices", "ensemble", UNKNOWN, ensemble="other"),
    parameter("no tokens", max_tokens=0),
    parameter("negative tokens", max_tokens=-1),
    parameter("huge tokens", max_tokens=2**31 - 1),
    parameter("NaN temperature", temperature=math.nan),
    parameter("infinite temperature", temperature=math.inf),
    parameter("negative temperature", temperature=-1e-9),
    parameter("huge temperature", temperature=1e308),
    parameter("NaN top_p", top_p=math.nan),
    parameter("zero top_p", top_p=0.0),
    parameter("negative top_p", top_p=-math.inf),
    parameter("huge top_p", top_p=1e308),
    parameter("negative seed", seed=-1),
    parameter("least seed", seed=-(2**63)),
    parameter("too many stops", stop=[str(n) for n in range(9)]),
    generate("empty stop", "parameters.stop[1]", parameters=generation_pb2.GenerationParameters(stop=["x", ""])),
    quorum("NaN weight", min_weight=math.nan),
    quorum("infinite weight", min_weight=-math.inf),
    quorum("negative weight", min_weight=-0.1),
    quorum("huge weight", min_weight=1e308),
    quorum("no families", min_families=0),
    quorum("negative families", min_families=-(2**31)),
    raw("prompt that is not UTF-8", "Generate", "prompt", text_field(2, NOT_UTF8)),
    raw("ensemble that is not UTF-8", "Classify", "ensemble", text_field(2, b"ok") + text_field(1, NOT_UTF8)),
    raw("choice that is not UTF-8", "Classify", "choices", text_field(3, b"ok") + text_field(3, NOT_UTF8)),
    raw("strategy that is not UTF-8", "Classify", "options.strategy", text_field(4, text_field(1, NOT_UTF8))),
    raw("panel that is not UTF-8", "Generate", "options.panel", text_field(4, text_field(2, NOT_UTF8))),
    raw("stop that is not UTF-8", "Generate", "parameters.stop", text_field(3, text_field(5, NOT_UTF8))),
    raw("bytes that are no message", "Generate", "message", b"\xff\xff\xff\xff"),
    raw("a text cut short", "Classify", "message", text_field(2, b"Is it so?")[:-4]),
    raw("a number where a text stands", "Classify", "prompt", b"\x10\x01"),
]
LARGE = [
    generate("message over the limit", "message", TOO_LARGE, prompt="x" * (MAX_MESSAGE_BYTES + 1)),
    classify("classify: message over the limit", "message", TOO_LARGE, prompt="x" * (2 * MAX_MESSAGE_BYTES)),
]
MORE = [
    raw("GetEnsemble: not UTF-8", "GetEnsemble", "ensemble", text_field(1, NOT_UTF8)),
    raw("GetEnsemble: no message", "GetEnsemble", "message", b"\xff"),
    Bad(
        name="GetEnsemble: unknown ensemble",
        method="GetEnsemble",
        raw=pb.GetEnsembleRequest(ensemble="other").SerializeToString(),
        verdict=UNKNOWN,
        field="ensemble",
    ),
]


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with endpoint_running() as running:
        yield running


async def check_still_answers(channel: grpc.aio.Channel) -> None:
    answer = pb.ClassifyResponse.FromString(
        await send(channel, f"{ENSEMBLE_SERVICE}/Classify", GOOD.SerializeToString())
    )
    assert answer.decision.answer in GOOD.choices


@pytest.mark.parametrize("bad", [pytest.param(bad, id=bad.name) for bad in (*BAD, *LARGE, *MORE)])
async def test_a_bad_request_is_refused_with_its_facts_and_the_next_one_is_served(endpoint: Endpoint, bad: Bad) -> None:
    async with channel_to(endpoint.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, f"{ENSEMBLE_SERVICE}/{bad.method}", bad.raw)

        refusal = read_refusal(caught.value)
        assert (refusal.code, refusal.reason) == bad.verdict
        check_facts(refusal, reason=bad.verdict[1], field=bad.field)
        await check_still_answers(channel)


@pytest.mark.parametrize("bad", [pytest.param(bad, id=bad.name) for bad in (*BAD, *LARGE)])
async def test_the_streaming_method_refuses_the_same(endpoint: Endpoint, bad: Bad) -> None:
    async with channel_to(endpoint.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send_to_stream(channel, f"{ENSEMBLE_SERVICE}/Stream{bad.method}", text_field(1, bad.raw))

        refusal = read_refusal(caught.value)
        assert (refusal.code, refusal.reason) == bad.verdict
        # Only bytes that do not parse are named by their place in the streaming request.
        field = refusal.facts["field"].removeprefix("request.")
        check_facts(refusal, reason=bad.verdict[1], field=refusal.facts["field"])
        assert field == bad.field
        await check_still_answers(channel)


@pytest.mark.parametrize("method", ["Generate", "Classify", "ListEnsembles"])
async def test_a_message_far_over_the_limit_is_refused_by_the_transport(endpoint: Endpoint, method: str) -> None:
    async with channel_to(endpoint.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, f"{ENSEMBLE_SERVICE}/{method}", text_field(2, b"x" * (20 * MAX_MESSAGE_BYTES)))

        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await check_still_answers(channel)


async def test_an_unknown_method_is_unimplemented(endpoint: Endpoint) -> None:
    async with channel_to(endpoint.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, f"{ENSEMBLE_SERVICE}/Guess", b"")

        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await check_still_answers(channel)


async def test_no_name_among_several_ensembles_is_refused_with_their_names() -> None:
    ensembles = (build_ensemble(["a"], name="one"), build_ensemble(["a"], name="two"))
    async with (
        endpoint_running({"a": build_echo()}, ensembles=ensembles) as endpoint,
        channel_to(endpoint.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, f"{ENSEMBLE_SERVICE}/Classify", GOOD.SerializeToString())

    refusal = read_refusal(caught.value)
    check_facts(refusal, reason="InvalidRequestError", field="ensemble")
    assert refusal.facts["remedy"] == "use one of: one, two"


async def test_a_bad_request_never_reaches_a_member(endpoint: Endpoint) -> None:
    async with channel_to(endpoint.address) as channel:
        for bad in (*BAD, *LARGE):
            with pytest.raises(grpc.aio.AioRpcError):
                await send(channel, f"{ENSEMBLE_SERVICE}/{bad.method}", bad.raw)

    for engine in endpoint.engines.values():
        assert engine.stats().prompt_tokens == 0
