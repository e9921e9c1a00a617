"""What goes over the wire comes back as it was."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.engines.engine import EngineStats
from ensemble.generation import (
    CompletionChunk,
    FinishReason,
    GenerationParameters,
    GenerationRequest,
)
from ensemble.router.request import ClassifyRequest, GenerateRequest, ParameterOverrides, QuorumOverrides, VoteOptions
from ensemble.rpc import convert, convert_vote
from ensemble.v1 import ensemble_service_pb2, member_service_pb2, vote_pb2, voting_service_pb2
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote, Voter
from ensemble.voting.decision import Candidate, DecidedBy, Decision
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import Question, Quorum

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.sampled_from("abcdefgh")
numbers = st.floats(allow_nan=False)
counts = st.integers(0, 2**40)
# Durations on the wire are read in microseconds.
latencies_s = st.integers(0, 10**9).map(lambda microseconds: microseconds / 1_000_000)


def tuples_of(values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(values, max_size=4).map(tuple)


ballots = st.builds(
    Ballot,
    member=names,
    family=texts,
    choice=st.none() | texts,
    probabilities=st.lists(numbers, max_size=4).map(tuple),
    text=st.none() | texts,
    logprob=st.none() | numbers,
    latency_s=latencies_s,
    prompt_tokens=counts,
    completion_tokens=counts,
)
abstentions = st.builds(
    Abstention,
    member=names,
    family=texts,
    reason=st.sampled_from(AbstentionReason),
    detail=texts,
    latency_s=latencies_s,
)
candidates = st.builds(Candidate, answer=texts, weight=numbers, members=tuples_of(names))
decisions = st.builds(
    Decision,
    answer=texts,
    strategy=texts,
    decided_by=st.sampled_from(DecidedBy),
    agreement=numbers,
    margin=numbers,
    confidence=st.none() | numbers,
    degraded=st.booleans(),
    num_asked=st.integers(0, 2**31 - 1),
    families=tuples_of(texts),
    candidates=st.lists(candidates, max_size=3).map(tuple),
    ballots=st.lists(ballots, max_size=3).map(tuple),
    abstentions=st.lists(abstentions, max_size=3).map(tuple),
)
quorum_overrides = st.builds(
    QuorumOverrides,
    min_weight=st.none() | numbers,
    min_families=st.none() | st.integers(-(2**31), 2**31 - 1),
    stop_early=st.none() | st.booleans(),
)
options = st.builds(VoteOptions, strategy=texts, panel=tuples_of(texts), quorum=quorum_overrides)
overrides = st.builds(
    ParameterOverrides,
    max_tokens=st.none() | st.integers(-(2**31), 2**31 - 1),
    temperature=st.none() | numbers,
    top_p=st.none() | numbers,
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=tuples_of(texts),
)
voters = st.lists(
    st.builds(Voter, member=names, family=texts, weight=numbers),
    min_size=1,
    max_size=5,
    unique_by=lambda voter: voter.member,
)
rules = st.sampled_from([AnswerRule(), AnswerRule(extract="last_number"), AnswerRule(extract="first_line")]) | st.just(
    AnswerRule(extract="pattern", pattern="is (.*)")
)


@settings(deadline=None)
@given(ballots)
def test_a_ballot_comes_back_as_it_was(ballot: Ballot) -> None:
    wire = vote_pb2.Ballot.FromString(convert_vote.ballot_to_wire(ballot, ballot.family).SerializeToString())

    assert convert_vote.ballot_from_wire(wire) == ballot


@settings(deadline=None)
@given(abstentions)
def test_an_abstention_comes_back_as_it_was(abstention: Abstention) -> None:
    raw = convert_vote.abstention_to_wire(abstention, abstention.family).SerializeToString()

    assert convert_vote.abstention_from_wire(vote_pb2.Abstention.FromString(raw)) == abstention


@settings(deadline=None)
@given(decisions)
def test_a_decision_comes_back_with_the_families_of_its_panel(decision: Decision) -> None:
    families = {name: f"family-{name}" for name in "abcdefgh"}

    raw = convert_vote.decision_to_wire(decision, families).SerializeToString()
    back = convert_vote.decision_from_wire(vote_pb2.Decision.FromString(raw))

    votes: list[Vote] = [*back.ballots, *back.abstentions]
    assert all(vote.family == families[vote.member] for vote in votes)
    assert convert_vote.decision_to_wire(back, families) == convert_vote.decision_to_wire(decision, families)
    cast: list[Vote] = [*decision.ballots, *decision.abstentions]
    assert [(vote.member, vote.latency_s) for vote in votes] == [(vote.member, vote.latency_s) for vote in cast]
    for name in ("answer", "strategy", "decided_by", "agreement", "margin", "confidence", "degraded", "num_asked"):
        assert getattr(back, name) == getattr(decision, name)
    assert (back.families, back.candidates) == (decision.families, decision.candidates)


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
    request = GenerationRequest(request_id="r", prompt=prompt, parameters=parameters)

    raw = convert.generation_request_to_wire(request).SerializeToString()

    assert convert.generation_request_from_wire(member_service_pb2.CompleteRequest.FromString(raw)) == request


@settings(deadline=None)
@given(
    st.builds(
        CompletionChunk,
        text=texts,
        completion_tokens=counts,
        prompt_tokens=counts,
        logprob=numbers,
        finish_reason=st.none() | st.sampled_from(FinishReason),
    )
)
def test_a_piece_of_a_completion_comes_back_as_it_was(chunk: CompletionChunk) -> None:
    raw = convert.chunk_to_wire(chunk, chunk.text).SerializeToString()

    assert convert.chunk_from_wire(member_service_pb2.CompleteResponse.FromString(raw)) == chunk


def test_a_completion_without_a_reason_counts_as_aborted() -> None:
    wire = member_service_pb2.CompleteResponse(text="half")

    assert convert.completion_from_wire(wire).finish_reason is FinishReason.ABORT


def test_every_counter_of_an_engine_comes_back_in_its_own_place() -> None:
    stats = EngineStats(**{name: n for n, name in enumerate(EngineStats.__dataclass_fields__, start=1)})

    assert convert.stats_from_wire(convert.stats_to_wire(stats)) == stats


@settings(deadline=None)
@given(voters, tuples_of(texts), rules, st.data())
def test_a_vote_comes_back_for_the_voting_service(
    panel: list[Voter], choices: tuple[str, ...], rule: AnswerRule, data: st.DataObject
) -> None:
    families = {voter.member: voter.family for voter in panel}
    on_panel = st.sampled_from(sorted(families))
    cast = data.draw(st.lists(st.tuples(on_panel, ballots | abstentions), max_size=4))
    votes = tuple(
        type(vote)(**{**{name: getattr(vote, name) for name in type(vote).__dataclass_fields__}, "member": member})
        for member, vote in cast
    )
    question = Question(panel=tuple(panel), quorum=Quorum(min_weight=0.25), choices=choices, answer_rule=rule)

    raw = convert_vote.decide_request_to_wire("mbr", question, votes).SerializeToString()
    wire = voting_service_pb2.DecideRequest.FromString(raw)

    assert convert_vote.question_from_wire(wire) == question
    back = convert_vote.votes_from_wire(wire)
    assert sorted(vote.member for vote in back) == sorted(vote.member for vote in votes)
    assert all(vote.family == families[vote.member] for vote in back)


@pytest.mark.parametrize("seconds", [0.0, 0.000001, 0.25, 3_600.5, 1e9])
def test_seconds_come_back_from_a_duration(seconds: float) -> None:
    assert convert_vote.duration_from_wire(convert_vote.duration_to_wire(seconds), "latency") == seconds
