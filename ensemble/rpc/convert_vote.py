"""Ballots, abstentions and decisions to and from the wire."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration

from ensemble.errors import EndpointError, InvalidRequestError
from ensemble.v1 import vote_pb2
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Voter
from ensemble.voting.decision import Candidate, DecidedBy, Decision

NANOS_PER_S = 1_000_000_000
MAX_DURATION_S = 315_576_000_000
"""The most that google.protobuf.Duration allows: some 10,000 years."""

REASON_TO_WIRE = {
    AbstentionReason.DEADLINE: vote_pb2.ABSTENTION_REASON_DEADLINE,
    AbstentionReason.ERROR: vote_pb2.ABSTENTION_REASON_ERROR,
    AbstentionReason.REFUSAL: vote_pb2.ABSTENTION_REASON_REFUSAL,
    AbstentionReason.UNPARSEABLE: vote_pb2.ABSTENTION_REASON_UNPARSEABLE,
    AbstentionReason.CANCELLED: vote_pb2.ABSTENTION_REASON_CANCELLED,
}
REASON_FROM_WIRE = {wire: reason for reason, wire in REASON_TO_WIRE.items()}
DECIDED_BY_TO_WIRE = {
    DecidedBy.ALL: vote_pb2.DECIDED_BY_ALL,
    DecidedBy.LOSSLESS_QUORUM: vote_pb2.DECIDED_BY_LOSSLESS_QUORUM,
    DecidedBy.DEADLINE: vote_pb2.DECIDED_BY_DEADLINE,
    DecidedBy.RISK_QUORUM: vote_pb2.DECIDED_BY_RISK_QUORUM,
    DecidedBy.STAGE: vote_pb2.DECIDED_BY_STAGE,
    DecidedBy.FIRST_TOKEN: vote_pb2.DECIDED_BY_FIRST_TOKEN,
}
DECIDED_BY_FROM_WIRE = {wire: decided_by for decided_by, wire in DECIDED_BY_TO_WIRE.items()}


def duration_to_wire(seconds: float) -> Duration:
    """Make a Duration."""
    whole, nanos = divmod(round(seconds * NANOS_PER_S), NANOS_PER_S)
    return Duration(seconds=whole, nanos=nanos)


def duration_from_wire(wire: Duration, field: str) -> float:
    """Read a Duration, in seconds.

    Raises:
        InvalidRequestError: it is negative, or none that protobuf allows.
    """
    if not 0 <= wire.seconds <= MAX_DURATION_S or not 0 <= wire.nanos < NANOS_PER_S:
        raise InvalidRequestError(field, "it is no duration of 0 s or more", "send seconds and nanos in their ranges")
    return (wire.seconds * NANOS_PER_S + wire.nanos) / NANOS_PER_S


def voter_to_wire(voter: Voter) -> vote_pb2.Voter:
    """Make the wire's voter."""
    return vote_pb2.Voter(member=voter.member, family=voter.family, weight=voter.weight)


def voter_from_wire(wire: vote_pb2.Voter) -> Voter:
    """Read a voter; its weight is the tally's to check."""
    return Voter(member=wire.member, family=wire.family, weight=wire.weight)


def ballot_to_wire(ballot: Ballot, family: str) -> vote_pb2.Ballot:
    """Make the wire's ballot."""
    return vote_pb2.Ballot(
        member=ballot.member,
        family=family,
        choice=ballot.choice,
        probabilities=ballot.probabilities,
        text=ballot.text,
        logprob=ballot.logprob,
        latency=duration_to_wire(ballot.latency_s),
        prompt_tokens=ballot.prompt_tokens,
        completion_tokens=ballot.completion_tokens,
    )


def ballot_from_wire(wire: vote_pb2.Ballot) -> Ballot:
    """Read a ballot; its fit to the question is the tally's to check.

    Raises:
        InvalidRequestError: its latency is no duration.
    """
    return Ballot(
        member=wire.member,
        family=wire.family,
        choice=wire.choice if wire.HasField("choice") else None,
        probabilities=tuple(wire.probabilities),
        text=wire.text if wire.HasField("text") else None,
        logprob=wire.logprob if wire.HasField("logprob") else None,
        latency_s=duration_from_wire(wire.latency, "ballots.latency"),
        prompt_tokens=wire.prompt_tokens,
        completion_tokens=wire.completion_tokens,
    )


def abstention_to_wire(abstention: Abstention, family: str) -> vote_pb2.Abstention:
    """Make the wire's abstention."""
    return vote_pb2.Abstention(
        member=abstention.member,
        family=family,
        reason=REASON_TO_WIRE[abstention.reason],
        detail=abstention.detail,
        latency=duration_to_wire(abstention.latency_s),
    )


def abstention_from_wire(wire: vote_pb2.Abstention) -> Abstention:
    """Read an abstention.

    Raises:
        InvalidRequestError: it has no reason, or its latency is no duration.
    """
    reason = REASON_FROM_WIRE.get(wire.reason)
    if reason is None:
        raise EndpointError("the peer", "UNIMPLEMENTED", f"it gave an unknown reason for abstaining: {wire.reason}")
    return Abstention(
        member=wire.member,
        family=wire.family,
        reason=reason,
        detail=wire.detail,
        latency_s=duration_from_wire(wire.latency, "abstentions.latency"),
    )


def decision_to_wire(decision: Decision, family_by_member: Mapping[str, str]) -> vote_pb2.Decision:
    """Make the wire's decision."""
    return vote_pb2.Decision(
        answer=decision.answer,
        strategy=decision.strategy,
        decided_by=DECIDED_BY_TO_WIRE[decision.decided_by],
        agreement=decision.agreement,
        margin=decision.margin,
        confidence=decision.confidence,
        degraded=decision.degraded,
        asked_count=decision.num_asked,
        families=decision.families,
        candidates=[
            vote_pb2.Candidate(answer=candidate.answer, weight=candidate.weight, members=candidate.members)
            for candidate in decision.candidates
        ],
        ballots=[ballot_to_wire(ballot, family_by_member[ballot.member]) for ballot in decision.ballots],
        abstentions=[
            abstention_to_wire(abstention, family_by_member[abstention.member]) for abstention in decision.abstentions
        ],
        withheld=decision.withheld,
        label_set=decision.label_set,
        streamed_member=decision.streamed_member,
        replaces_stream=decision.replaces_stream,
    )


def decision_from_wire(wire: vote_pb2.Decision) -> Decision:
    """Read a decision.

    Raises:
        EndpointError: it says something that this version does not know.
    """
    decided_by = DECIDED_BY_FROM_WIRE.get(wire.decided_by)
    if decided_by is None:
        raise EndpointError(
            "the peer", "UNIMPLEMENTED", f"the vote was decided by something unknown: {wire.decided_by}"
        )
    return Decision(
        answer=wire.answer,
        strategy=wire.strategy,
        decided_by=decided_by,
        agreement=wire.agreement,
        margin=wire.margin,
        confidence=wire.confidence if wire.HasField("confidence") else None,
        degraded=wire.degraded,
        num_asked=wire.asked_count,
        families=tuple(wire.families),
        candidates=tuple(
            Candidate(answer=candidate.answer, weight=candidate.weight, members=tuple(candidate.members))
            for candidate in wire.candidates
        ),
        ballots=tuple(map(ballot_from_wire, wire.ballots)),
        abstentions=tuple(map(abstention_from_wire, wire.abstentions)),
        withheld=wire.withheld,
        label_set=tuple(wire.label_set),
        streamed_member=wire.streamed_member,
        replaces_stream=wire.replaces_stream,
    )
