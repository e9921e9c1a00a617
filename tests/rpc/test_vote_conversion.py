"""Votes, decisions and records that go over the wire come back as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import InvalidRequestError
from ensemble.rpc import convert_question, convert_record, convert_vote
from ensemble.v1 import record_pb2, vote_pb2, voting_service_pb2
from ensemble.voting.ballot import Abstention, Ballot, Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.record import VoteRecord
from ensemble.voting.strategy import Question
from tests.rpc.wire_values import abstentions, ballots, decisions, questions, texts


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
    for name in (
        "answer",
        "strategy",
        "decided_by",
        "agreement",
        "margin",
        "confidence",
        "degraded",
        "num_asked",
        "withheld",
        "label_set",
        "streamed_member",
        "replaces_stream",
    ):
        assert getattr(back, name) == getattr(decision, name)
    assert (back.families, back.candidates) == (decision.families, decision.candidates)


@settings(deadline=None)
@given(questions, st.data())
def test_a_vote_comes_back_for_the_voting_service(question: Question, data: st.DataObject) -> None:
    families = {voter.member: voter.family for voter in question.panel}
    on_panel = st.sampled_from(sorted(families))
    cast = data.draw(st.lists(st.tuples(on_panel, ballots | abstentions), max_size=4))
    votes = tuple(replace(vote, member=member) for member, vote in cast)
    decided_by = data.draw(st.sampled_from(DecidedBy))

    raw = convert_question.decide_request_to_wire("mbr", question, votes, decided_by).SerializeToString()
    wire = voting_service_pb2.DecideRequest.FromString(raw)

    assert convert_question.question_from_wire(wire) == question
    assert convert_question.decided_by_from_wire(wire) is decided_by
    back = convert_question.votes_from_wire(wire)
    assert sorted(vote.member for vote in back) == sorted(vote.member for vote in votes)
    assert all(vote.family == families[vote.member] for vote in back)


@settings(deadline=None)
@given(questions, decisions, texts, st.data())
def test_a_record_comes_back_from_the_wire_and_from_its_json(
    question: Question, decision: Decision, name: str, data: st.DataObject
) -> None:
    kinds = data.draw(st.lists(ballots | abstentions, min_size=len(question.panel), max_size=len(question.panel)))
    votes = tuple(
        replace(vote, member=voter.member, family=voter.family)
        for voter, vote in zip(question.panel, kinds, strict=True)
    )
    record = VoteRecord(
        request_id=name,
        ensemble=name,
        strategy=name,
        question=question,
        votes=votes,
        decision=replace(decision, ballots=(), abstentions=()),
    )

    raw = convert_record.record_to_wire(record).SerializeToString()

    assert convert_record.record_from_wire(record_pb2.DecisionRecord.FromString(raw)) == record
    assert convert_record.record_from_json(convert_record.record_to_json(record)) == record


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        "{}",
        '{"vote": {}}',
        '{"surprise": 1}',
        '{"vote": {"ballots": 1}, "decision": {}}',
        '{"vote": {"abstentions": [{"member": "a"}]}, "decision": {"decided_by": 1}}',
        '{"vote": {"ballots": [{"member": "a"}]}, "decision": {"decided_by": 1}}',
        '{"vote": {}, "decision": {"decided_by": 99}}',
        "[" * 10_000,
    ],
)
def test_what_is_no_record_is_one_clear_error(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        convert_record.record_from_json(text)
