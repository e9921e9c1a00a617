"""Records of decisions to and from the wire, and to and from their JSON form."""

from __future__ import annotations

from google.protobuf import json_format

from ensemble.errors import EnsembleError, InvalidRequestError
from ensemble.rpc.convert_question import decide_request_to_wire, question_from_wire, votes_from_wire
from ensemble.rpc.convert_vote import decision_from_wire, decision_to_wire
from ensemble.v1 import record_pb2
from ensemble.voting.record import VoteRecord


def record_to_wire(record: VoteRecord) -> record_pb2.DecisionRecord:
    """Make the wire's record."""
    families = {voter.member: voter.family for voter in record.question.panel}
    return record_pb2.DecisionRecord(
        request_id=record.request_id,
        ensemble=record.ensemble,
        vote=decide_request_to_wire(record.strategy, record.question, record.votes, record.decision.decided_by),
        decision=decision_to_wire(record.decision, families),
    )


def record_from_wire(wire: record_pb2.DecisionRecord) -> VoteRecord:
    """Read a record; its votes are in the panel's order.

    Raises:
        InvalidRequestError: something in it is not what a vote may be.
        EndpointError: it says something that this version does not know.
    """
    question = question_from_wire(wire.vote)
    place_by_member = {voter.member: place for place, voter in enumerate(question.panel)}
    votes = votes_from_wire(wire.vote)
    for vote in votes:
        if vote.member not in place_by_member:
            raise InvalidRequestError("vote", f"{vote.member!r} is not on its panel", "send the record as it was given")
    return VoteRecord(
        request_id=wire.request_id,
        ensemble=wire.ensemble,
        strategy=wire.vote.strategy,
        question=question,
        votes=tuple(sorted(votes, key=lambda vote: place_by_member[vote.member])),
        decision=decision_from_wire(wire.decision),
    )


def record_to_json(record: VoteRecord) -> str:
    """Write a record as protobuf's JSON, which any client of the protos can make, too; numbers keep every digit."""
    return json_format.MessageToJson(record_to_wire(record), preserving_proto_field_name=True) + "\n"


def record_from_json(text: str) -> VoteRecord:
    """Read a record from protobuf's JSON.

    Raises:
        InvalidRequestError: it is not the JSON of a record.
    """
    wire = record_pb2.DecisionRecord()
    try:
        json_format.Parse(text, wire)
    except (json_format.ParseError, RecursionError) as error:
        raise InvalidRequestError(
            "record", f"it is no decision record ({error})", "send one as the server gave it"
        ) from error
    if not wire.HasField("vote") or not wire.HasField("decision"):
        raise InvalidRequestError("record", "it has no vote or no decision", "send one as the server gave it")
    try:
        return record_from_wire(wire)
    except InvalidRequestError:
        raise
    except EnsembleError as error:
        raise InvalidRequestError("record", str(error), "send one as the server gave it") from error
