"""Requests, completions and counters that go over the wire come back as they were."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.engines.engine import EngineStats
from ensemble.generation import (
    CompletionChunk,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationParameters,
    GenerationRequest,
)
from ensemble.router.request import ClassifyRequest, GenerateRequest, ParameterOverrides, VoteOptions
from ensemble.rpc import convert, convert_member, convert_vote
from ensemble.v1 import ensemble_service_pb2, member_service_pb2
from tests.rpc.wire_values import counts, numbers, options, overrides, texts, tuples_of


@settings(deadline=None)
@given(texts, texts, overrides, options)
def test_a_request_for_a_text_comes_back_as_it_was(
    ensemble: str, prompt: str, parameters: ParameterOverrides, vote: VoteOptions
) -> None:
    request = GenerateRequest(request_id="r", ensemble=ensemble, prompt=prompt, parameters=parameters, options=vote)

    raw = convert.generate_request_to_wire(request).SerializeToString()

    assert convert.generate_request_from_wire(ensemble_service_pb2.GenerateRequest.FromString(raw), "r") == request


@settings(deadline=None)
@given(texts, texts, tuples_of(texts), options)
def test_a_question_with_choices_comes_back_as_it_was(
    ensemble: str, prompt: str, choices: tuple[str, ...], vote: VoteOptions
) -> None:
    request = ClassifyRequest(request_id="r", ensemble=ensemble, prompt=prompt, choices=choices, options=vote)

    raw = convert.classify_request_to_wire(request).SerializeToString()

    assert convert.classify_request_from_wire(ensemble_service_pb2.ClassifyRequest.FromString(raw), "r") == request


@settings(deadline=None)
@given(
    st.builds(
        GenerationParameters,
        max_tokens=st.integers(0, 2**31 - 1),
        temperature=numbers,
        top_p=numbers,
        seed=st.none() | st.integers(0, 2**63 - 1),
        stop=tuples_of(texts),
    ),
    texts,
)
def test_a_members_request_comes_back_as_it_was(parameters: GenerationParameters, prompt: str) -> None:
    for needs_logprob in (True, False):
        request = GenerationRequest(
            request_id="r", prompt=prompt, parameters=parameters, is_streamed=False, needs_logprob=needs_logprob
        )

        raw = convert_member.generation_request_to_wire(request).SerializeToString()

        wire = member_service_pb2.CompleteRequest.FromString(raw)
        assert convert_member.generation_request_from_wire(wire, is_streamed=False) == request


def test_a_router_that_does_not_know_the_question_needs_log_probabilities() -> None:
    wire = member_service_pb2.CompleteRequest(request_id="r", prompt="p")

    assert convert_member.generation_request_from_wire(wire, is_streamed=False).needs_logprob


@settings(deadline=None)
@given(
    st.builds(
        CompletionChunk,
        text=texts,
        completion_tokens=counts,
        prompt_tokens=counts,
        logprob=st.none() | numbers,
        finish_reason=st.none() | st.sampled_from(FinishReason),
    )
)
def test_a_piece_of_a_completion_comes_back_as_it_was(chunk: CompletionChunk) -> None:
    raw = convert_member.chunk_to_wire(chunk, chunk.text).SerializeToString()

    assert convert_member.chunk_from_wire(member_service_pb2.CompleteResponse.FromString(raw)) == chunk


def test_a_completion_without_a_reason_counts_as_aborted() -> None:
    wire = member_service_pb2.CompleteResponse(text="half")

    assert convert_member.completion_from_wire(wire).finish_reason is FinishReason.ABORT


def test_every_counter_of_an_engine_comes_back_in_its_own_place() -> None:
    stats = EngineStats(**{name: n for n, name in enumerate(EngineStats.__dataclass_fields__, start=1)})

    assert convert_member.stats_from_wire(convert_member.stats_to_wire(stats)) == stats


@pytest.mark.parametrize("seconds", [0.0, 0.000001, 0.25, 3_600.5, 1e9])
def test_seconds_come_back_from_a_duration(seconds: float) -> None:
    assert convert_vote.duration_from_wire(convert_vote.duration_to_wire(seconds), "latency") == seconds


def test_texts_and_their_embeddings_come_back() -> None:
    request = EmbeddingRequest(request_id="r", texts=("one", "two"))
    embeddings = Embeddings(vectors=((1.0, 0.0), (0.0, -1.0)), prompt_tokens=2)

    request_raw = convert_member.embedding_request_to_wire(request).SerializeToString()
    raw = convert_member.embeddings_to_wire(embeddings).SerializeToString()

    assert (
        convert_member.embedding_request_from_wire(member_service_pb2.EmbedRequest.FromString(request_raw)) == request
    )
    assert convert_member.embeddings_from_wire(member_service_pb2.EmbedResponse.FromString(raw)) == embeddings
