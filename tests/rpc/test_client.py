"""The client against a running endpoint: answers, and every error as our own exception with its facts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import grpc
import pytest

from ensemble.errors import (
    EndpointError,
    EnsembleError,
    InvalidRequestError,
    MessageTooLargeError,
    OverloadedError,
    QuorumError,
    UnknownNameError,
)
from ensemble.router.config import LimitsConfig
from ensemble.router.request import ParameterOverrides, QuorumOverrides, TextPiece, VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient, EnsembleClient
from ensemble.rpc.server import GrpcServer, Service
from ensemble.v1 import ensemble_service_pb2, vote_pb2
from ensemble.voting.ballot import AbstentionReason, Ballot
from ensemble.voting.decision import DecidedBy, Decision
from tests.ports import HOST
from tests.rpc.systems import (
    MAX_MESSAGE_BYTES,
    NOBODY,
    Endpoint,
    build_echo,
    channel_to,
    endpoint_running,
    wait_until,
)
from tests.rpc.wire import ENSEMBLE_SERVICE

YES_NO = ["yes", "no"]
EVERYONE = VoteOptions(quorum=QuorumOverrides(stop_early=False))
Call = Callable[[AsyncEnsembleClient], object]


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with endpoint_running() as running:
        yield running


async def test_classify_gives_the_decision_with_everyones_ballot(endpoint: Endpoint) -> None:
    async with AsyncEnsembleClient(endpoint.address) as client:
        decision = await client.classify("Is it so?", YES_NO, options=EVERYONE)

    assert decision.decided_by is DecidedBy.ALL
    assert [ballot.member for ballot in decision.ballots] == ["a", "b", "c"]
    assert [ballot.family for ballot in decision.ballots] == ["family-a", "family-b", "family-c"]
    assert all(sum(ballot.probabilities) == pytest.approx(1.0) for ballot in decision.ballots)
    assert endpoint.observer.decisions[0][1].answer == decision.answer


async def test_a_stream_tells_pieces_and_ballots_and_last_the_decision(endpoint: Endpoint) -> None:
    async with AsyncEnsembleClient(endpoint.address) as client:
        events = [event async for event in client.stream_generate("one two three", options=EVERYONE)]
        votes = [event async for event in client.stream_classify("one two three", YES_NO, options=EVERYONE)]

    for member in "abc":
        pieces = [event.text for event in events if isinstance(event, TextPiece) and event.member == member]
        assert "".join(pieces) == "one two three"
        assert len(pieces) == 3
    assert isinstance(events[-1], Decision)
    assert [type(event) for event in votes] == [Ballot, Ballot, Ballot, Decision]


async def test_parameters_reach_the_members(endpoint: Endpoint) -> None:
    async with AsyncEnsembleClient(endpoint.address) as client:
        short = await client.generate("one two three", parameters=ParameterOverrides(max_tokens=2))
        stopped = await client.generate("one two three", parameters=ParameterOverrides(stop=("three",)))

    assert (short.answer, stopped.answer.strip()) == ("one two", "one two")


async def test_a_heavy_strategy_is_decided_by_the_voting_service(endpoint: Endpoint) -> None:
    async with AsyncEnsembleClient(endpoint.address) as client:
        decision = await client.generate("one two three", options=VoteOptions(strategy="mbr"))

    assert (decision.answer, decision.strategy) == ("one two three", "mbr")
    assert decision.agreement == pytest.approx(1.0)


async def test_the_blocking_client_hears_the_same(endpoint: Endpoint) -> None:
    def talk() -> tuple[Decision, Decision, list[str], list[str], str]:
        with EnsembleClient(endpoint.address) as client:
            return (
                client.classify("Is it so?", YES_NO, options=EVERYONE),
                client.generate("one two three"),
                [type(event).__name__ for event in client.stream_generate("one", options=EVERYONE)],
                [type(event).__name__ for event in client.stream_classify("one", YES_NO, options=EVERYONE)],
                client.get_ensemble().ensemble.name + client.list_ensembles()[0].name,
            )

    classified, generated, pieces, votes, names = await asyncio.to_thread(talk)

    assert (len(classified.ballots), generated.answer) == (3, "one two three")
    assert sorted(pieces) == ["Ballot"] * 3 + ["Decision"] + ["TextPiece"] * 3
    assert votes == ["Ballot"] * 3 + ["Decision"]
    assert names == "defaultdefault"


async def test_an_ensemble_is_described_with_its_members_state(endpoint: Endpoint) -> None:
    async with AsyncEnsembleClient(endpoint.address) as client:
        (summary,) = await client.list_ensembles()
        report = await client.get_ensemble("default")

    assert report.ensemble == summary
    assert [voter.member for voter in summary.members] == ["a", "b", "c"]
    assert (summary.classify_strategy, summary.generate_strategy) == ("weighted_vote", "majority")
    assert [(state.member, state.checkpoint, state.problem) for state in report.members] == [
        (member, "none", "") for member in "abc"
    ]


# The rows: a call that the server refuses, the exception that the client raises, and a fact of it.
REFUSED: list[tuple[Call, type[EnsembleError], tuple[str, str]]] = [
    (lambda client: client.generate(""), InvalidRequestError, ("field", "prompt")),
    (lambda client: client.generate("x", ensemble="other"), UnknownNameError, ("remedy", "use one of: default")),
    (lambda client: client.classify("x", ["yes"]), InvalidRequestError, ("field", "choices")),
    (lambda client: client.generate("x" * MAX_MESSAGE_BYTES), MessageTooLargeError, ("field", "message")),
    (lambda client: client.get_ensemble("other"), UnknownNameError, ("field", "ensemble")),
    (lambda client: anext(client.stream_generate("")), InvalidRequestError, ("field", "prompt")),
    (lambda client: anext(client.stream_classify("x", [])), InvalidRequestError, ("field", "choices")),
]


@pytest.mark.parametrize(("call", "kind", "fact"), REFUSED)
async def test_a_refusal_comes_back_as_the_servers_own_error_with_its_facts(
    endpoint: Endpoint, call: Call, kind: type[EnsembleError], fact: tuple[str, str]
) -> None:
    async with AsyncEnsembleClient(endpoint.address) as client:
        with pytest.raises(EnsembleError) as caught:
            await call(client)  # type: ignore[misc]

    assert type(caught.value) is kind
    assert caught.value.facts[fact[0]] == fact[1]


async def test_nobody_answering_comes_back_as_a_quorum_error_with_its_numbers() -> None:
    engines = {"a": build_echo(fail="error"), "b": build_echo("b", fail="error")}
    async with endpoint_running(engines) as endpoint, AsyncEnsembleClient(endpoint.address) as client:
        with pytest.raises(QuorumError) as caught:
            await client.classify("Is it so?", YES_NO)

    error = caught.value
    assert (error.ensemble, error.num_cast, error.num_asked) == ("default", 0, 2)
    assert error.reasons == "a: error, b: error"


async def test_an_answer_with_an_error_is_not_asked_for_again_by_grpc_itself() -> None:
    engine = build_echo(fail="error")
    async with endpoint_running({"a": engine}) as endpoint, AsyncEnsembleClient(endpoint.address) as client:
        with pytest.raises(QuorumError):
            await client.classify("Is it so?", YES_NO)

    assert len(endpoint.observer.failures) == 1


async def test_too_many_requests_come_back_as_overload_with_the_limit_and_later_ones_are_served() -> None:
    engine = build_echo(delay_s=1.0)
    limits = LimitsConfig(max_concurrent=1)
    async with (
        endpoint_running({"a": engine}, limits=limits) as endpoint,
        AsyncEnsembleClient(endpoint.address) as client,
    ):
        first = asyncio.create_task(client.generate("first"))
        await wait_until(lambda: engine.stats().running_requests > 0)
        with pytest.raises(OverloadedError) as caught:
            await client.generate("second")
        answers = [(await first).answer, (await client.generate("third")).answer]

    assert caught.value.limit == 1
    assert answers == ["first", "third"]


@pytest.mark.parametrize("address", [NOBODY, "no-such-host.invalid:9000"])
async def test_an_address_where_nobody_listens_is_an_endpoint_error(address: str) -> None:
    async with AsyncEnsembleClient(address, timeout_s=1.0) as client:
        with pytest.raises(EndpointError) as caught:
            await client.classify("Is it so?", YES_NO)
        with pytest.raises(EndpointError):
            await anext(client.stream_generate("x"))

    assert caught.value.address == address
    assert caught.value.status in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert caught.value.problem


def test_an_address_where_nobody_listens_is_an_endpoint_error_for_the_blocking_client_too() -> None:
    with EnsembleClient(NOBODY, timeout_s=1.0) as client, pytest.raises(EndpointError) as caught:
        client.classify("Is it so?", YES_NO)

    assert caught.value.address == NOBODY


async def test_a_late_member_abstains_before_the_clients_deadline_passes() -> None:
    engines = {"a": build_echo(), "late": build_echo("late", delay_s=60.0)}
    async with endpoint_running(engines) as endpoint, AsyncEnsembleClient(endpoint.address, timeout_s=5.0) as client:
        decision = await client.generate("one two")

    assert (decision.answer, decision.decided_by) == ("one two", DecidedBy.DEADLINE)
    assert [(silent.member, silent.reason) for silent in decision.abstentions] == [("late", AbstentionReason.DEADLINE)]


async def test_a_request_without_a_deadline_gets_the_servers() -> None:
    limits = LimitsConfig(request_timeout_s=1.5)
    engines = {"a": build_echo(), "late": build_echo("late", delay_s=60.0)}
    request = ensemble_service_pb2.GenerateRequest(prompt="one two").SerializeToString()
    async with endpoint_running(engines, limits=limits) as endpoint, channel_to(endpoint.address) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{ENSEMBLE_SERVICE}/Generate")
        response = ensemble_service_pb2.GenerateResponse.FromString(await method(request))

    assert response.decision.decided_by == vote_pb2.DECIDED_BY_DEADLINE


async def test_a_member_that_nobody_can_reach_abstains_and_says_why() -> None:
    addresses = {"b": (NOBODY,) * 1_000}
    async with (
        endpoint_running(addresses=addresses) as endpoint,
        AsyncEnsembleClient(endpoint.address) as client,
    ):
        decision = await client.classify("Is it so?", YES_NO, options=EVERYONE)

    assert [(silent.member, silent.reason) for silent in decision.abstentions] == [("b", AbstentionReason.ERROR)]
    assert "away" in decision.abstentions[0].detail


async def test_a_stream_that_its_reader_leaves_is_cancelled_on_the_server() -> None:
    engine = build_echo(token_delay_s=0.05)
    async with endpoint_running({"a": engine}) as endpoint, AsyncEnsembleClient(endpoint.address) as client:
        async with aclosing(client.stream_generate("word " * 190)) as events:
            await anext(events)
        await wait_until(lambda: not engine.stats().running_requests)

    assert engine.stats().aborted_requests == 1


@dataclass(slots=True, kw_only=True)
class EndsOnce:
    """A servicer whose first call ends with a bare status, as gRPC's own server ends calls when it stops."""

    code: grpc.StatusCode
    num_calls: int = 0

    async def Classify(  # noqa: N802 - gRPC's name
        self, request: ensemble_service_pb2.ClassifyRequest, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> ensemble_service_pb2.ClassifyResponse:
        self.num_calls += 1
        if self.num_calls == 1:
            await context.abort(self.code, "")
        decision = vote_pb2.Decision(answer="yes", decided_by=vote_pb2.DECIDED_BY_ALL)
        return ensemble_service_pb2.ClassifyResponse(decision=decision)

    Generate = StreamGenerate = StreamClassify = Feedback = ListEnsembles = GetEnsemble = Classify


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_call_that_a_stopping_server_never_began_is_made_again(code: grpc.StatusCode) -> None:
    servicer = EndsOnce(code=code)
    descriptor = ensemble_service_pb2.DESCRIPTOR.services_by_name["EnsembleService"]
    server = GrpcServer([Service(descriptor=descriptor, servicer=servicer)], max_message_bytes=MAX_MESSAGE_BYTES)
    await server.start(HOST, 0)

    async with AsyncEnsembleClient(f"{HOST}:{server.port}") as client:
        decision = await client.classify("Is it so?", YES_NO)
    await server.stop(grace_s=0.0)

    assert decision.answer == "yes"
    assert servicer.num_calls == 2
