"""Requests with names of their own, records of decisions, feedback and embeddings, over a running endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from ensemble.errors import ConfigError, FeedbackUnavailableError, InvalidRequestError, MemberRefusedError
from ensemble.generation import EmbeddingRequest
from ensemble.router.feedback import FeedbackPolicy, OnlineWeights
from ensemble.router.request import Event, QuorumOverrides, VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient, EnsembleClient
from ensemble.rpc.ensemble_servicer import REQUEST_ID_KEY
from ensemble.rpc.member_client import GrpcMemberClient
from ensemble.v1 import ensemble_service_pb2 as pb
from ensemble.v1 import ensemble_service_pb2_grpc
from ensemble.voting.decision import Decision
from ensemble.voting.record import VoteRecord, recount
from tests.fakes.feedback_store import FakeFeedbackStore
from tests.fakes.replica_picker import FakeReplicaPicker
from tests.rpc.systems import (
    LONG_S,
    SECRET,
    Endpoint,
    build_caller,
    build_echo,
    channel_to,
    channels_open,
    endpoint_running,
    member_running,
)

YES_NO = ("yes", "no")
RECORDED = VoteOptions(include_record=True, quorum=QuorumOverrides(stop_early=False))
POLICIES = {"default": FeedbackPolicy(audit_share=1.0, learning_rate=0.5, max_shift=1.0)}


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with endpoint_running() as running:
        yield running


@pytest.fixture
def store() -> FakeFeedbackStore:
    return FakeFeedbackStore(policy_by_ensemble=POLICIES)


@pytest.fixture
async def learning(store: FakeFeedbackStore) -> AsyncIterator[Endpoint]:
    online = OnlineWeights(store, POLICIES, secret=SECRET)
    await online.start()
    async with endpoint_running(online=online) as running:
        yield running
    await online.stop(grace_s=LONG_S)


async def test_a_record_counts_to_the_decision_that_came_with_it(endpoint: Endpoint) -> None:
    async with AsyncEnsembleClient(endpoint.address) as client:
        choice = await client.classify_with_record("Is it so?", YES_NO, request_id="mine")
        text = await client.generate_with_record("one two three", options=VoteOptions(strategy="mbr"))

    assert (choice.request_id, choice.ensemble) == ("mine", "default")
    assert recount(choice) == choice.decision
    assert recount(text) == text.decision
    assert len(text.request_id) == 32


async def test_a_stream_tells_the_record_before_the_decision(endpoint: Endpoint) -> None:
    async with AsyncEnsembleClient(endpoint.address) as client:
        votes = [event async for event in client.stream_classify("Is it so?", YES_NO, options=RECORDED)]
        texts = [event async for event in client.stream_generate("one two", options=RECORDED, request_id="mine")]

    for events in (votes, texts):
        record, decision = events[-2:]
        assert isinstance(record, VoteRecord)
        assert isinstance(decision, Decision)
        assert record.decision == decision
    assert isinstance(texts[-2], VoteRecord)
    assert texts[-2].request_id == "mine"


def call_blocking(address: str) -> tuple[VoteRecord, VoteRecord, list[Event]]:
    """Use every new method of the blocking client."""
    with EnsembleClient(address) as client:
        with pytest.raises(ConfigError, match="takes no feedback"):
            client.feedback("mine", "yes")
        return (
            client.classify_with_record("Is it so?", YES_NO, request_id="mine"),
            client.generate_with_record("one two"),
            list(client.stream_classify("Is it so?", YES_NO, options=RECORDED)),
        )


async def test_the_blocking_client_gets_records_and_sends_feedback(endpoint: Endpoint) -> None:
    record, text, events = await asyncio.to_thread(call_blocking, endpoint.address)

    assert record.request_id == "mine"
    assert recount(text) == text.decision
    assert isinstance(events[-2], VoteRecord)


async def test_a_name_in_the_request_comes_before_one_in_the_metadata(endpoint: Endpoint) -> None:
    async with channel_to(endpoint.address) as channel:
        stub = ensemble_service_pb2_grpc.EnsembleServiceStub(channel)
        metadata = ((REQUEST_ID_KEY, "theirs"),)
        named = await stub.Classify(pb.ClassifyRequest(prompt="?", choices=YES_NO, request_id="m"), metadata=metadata)
        unnamed = await stub.Classify(pb.ClassifyRequest(prompt="?", choices=YES_NO), metadata=metadata)

    assert (named.request_id, unnamed.request_id) == ("m", "theirs")
    assert not named.HasField("record")


@pytest.mark.parametrize("request_id", ["a b", "ä", "r" * 129, "a/b", "a\n"])
async def test_a_name_that_cannot_stand_in_a_log_is_refused(endpoint: Endpoint, request_id: str) -> None:
    async with AsyncEnsembleClient(endpoint.address) as client:
        with pytest.raises(InvalidRequestError) as caught:
            await client.classify("Is it so?", YES_NO, request_id=request_id)

    assert caught.value.field == "request_id"


async def test_feedback_on_an_audited_request_is_learned_once(learning: Endpoint, store: FakeFeedbackStore) -> None:
    async with AsyncEnsembleClient(learning.address) as client:
        decision = await client.classify("Is it so?", YES_NO, request_id="mine")
        first = await client.feedback("mine", decision.answer)
        again = await client.feedback("mine", decision.answer)

    assert (first.accepted, first.was_audited, first.already_known) == (True, True, False)
    assert (again.accepted, again.was_audited, again.already_known) == (False, True, True)
    assert [audit.request_id for audit in store.audits] == ["mine"]


async def test_feedback_on_a_request_that_was_never_made_says_why_it_does_not_count(learning: Endpoint) -> None:
    async with AsyncEnsembleClient(learning.address) as client:
        outcome = await client.feedback("unheard-of", "yes")

    assert (outcome.accepted, outcome.was_audited) == (False, False)
    assert "not audited" in outcome.problem


async def test_feedback_of_the_wrong_kind_or_without_an_answer_is_refused(learning: Endpoint) -> None:
    async with AsyncEnsembleClient(learning.address) as client, channel_to(learning.address) as channel:
        await client.classify("Is it so?", YES_NO, request_id="mine")
        with pytest.raises(InvalidRequestError, match="wrong kind"):
            await client.feedback("mine", "yes", is_choice=False)
        with pytest.raises(InvalidRequestError, match="none of the request's choices"):
            await client.feedback("mine", "perhaps")
        with pytest.raises(InvalidRequestError, match="request_id"):
            await client.feedback("", "yes")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ensemble_service_pb2_grpc.EnsembleServiceStub(channel).Feedback(pb.FeedbackRequest(request_id="mine"))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_store_that_is_away_is_told_and_answers_go_on(learning: Endpoint, store: FakeFeedbackStore) -> None:
    async with AsyncEnsembleClient(learning.address) as client:
        store.is_away = True
        decision = await client.classify("Is it so?", YES_NO, request_id="mine")
        with pytest.raises(FeedbackUnavailableError):
            await client.feedback("mine", decision.answer)

    assert decision.num_asked == 3


async def test_a_member_embeds_texts_over_the_wire() -> None:
    async with member_running(build_echo()) as address, channels_open() as channels:
        picker = FakeReplicaPicker(addresses=(address,))
        client = GrpcMemberClient(build_caller(channels, picker), member="a", secret=SECRET)

        embeddings = await client.embed(EmbeddingRequest(request_id="r", texts=("x", "y", "x")), timeout_s=LONG_S)
        with pytest.raises(MemberRefusedError):
            await client.embed(EmbeddingRequest(request_id="r", texts=("",)), timeout_s=LONG_S)

    first, second, third = embeddings.vectors
    assert first == third != second
    assert sum(value * value for value in first) == pytest.approx(1.0, abs=1e-6)
