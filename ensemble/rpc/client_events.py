"""What a client hears, from the wire to our own types."""

from __future__ import annotations

from dataclasses import dataclass

from ensemble.engines.engine import EngineStats
from ensemble.errors import EndpointError
from ensemble.router.feedback import FeedbackOutcome
from ensemble.router.replica_start import ReplicaStart
from ensemble.router.request import Event, TextPiece
from ensemble.rpc.convert_member import stats_from_wire
from ensemble.rpc.convert_record import record_from_wire
from ensemble.rpc.convert_report import start_from_wire
from ensemble.rpc.convert_vote import abstention_from_wire, ballot_from_wire, decision_from_wire
from ensemble.v1 import ensemble_service_pb2 as pb
from ensemble.voting.ballot import Voter


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleSummary:
    """An ensemble as a client sees it; members are in the order that breaks ties."""

    name: str
    members: tuple[Voter, ...]
    classify_strategy: str
    generate_strategy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """One replica and its engine's counters."""

    replica_id: str
    stats: EngineStats


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """A member's replicas; ``problem`` says why some are missing, ``starts`` tells of those that are not up."""

    member: str
    checkpoint: str
    replicas: tuple[ReplicaState, ...]
    problem: str
    starts: tuple[ReplicaStart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleReport:
    """An ensemble with the state of its members."""

    ensemble: EnsembleSummary
    members: tuple[MemberState, ...]


def generate_events_from_wire(wire: pb.StreamGenerateResponse) -> tuple[Event, ...]:
    """Read what happened during a generation: one event, or at the end a record, if there is one, and the decision."""
    match wire.WhichOneof("event"):
        case "piece":
            return (TextPiece(member=wire.piece.member, text=wire.piece.text),)
        case "ballot":
            return (ballot_from_wire(wire.ballot),)
        case "abstention":
            return (abstention_from_wire(wire.abstention),)
        case "response":
            return _last_events(wire.response)
    raise EndpointError("the server", "UNIMPLEMENTED", "it sent an event that this client does not know")


def classify_events_from_wire(wire: pb.StreamClassifyResponse) -> tuple[Event, ...]:
    """Read what happened during a vote among choices; as ``generate_events_from_wire``."""
    match wire.WhichOneof("event"):
        case "ballot":
            return (ballot_from_wire(wire.ballot),)
        case "abstention":
            return (abstention_from_wire(wire.abstention),)
        case "response":
            return _last_events(wire.response)
    raise EndpointError("the server", "UNIMPLEMENTED", "it sent an event that this client does not know")


def outcome_from_wire(wire: pb.FeedbackResponse) -> FeedbackOutcome:
    """Read what became of a feedback."""
    return FeedbackOutcome(
        accepted=wire.accepted,
        was_audited=wire.was_audited,
        already_known=wire.already_known,
        problem=wire.problem,
    )


def _last_events(response: pb.GenerateResponse | pb.ClassifyResponse) -> tuple[Event, ...]:
    decision = decision_from_wire(response.decision)
    return (record_from_wire(response.record), decision) if response.HasField("record") else (decision,)


def summary_from_wire(wire: pb.EnsembleSummary) -> EnsembleSummary:
    """Read an ensemble's summary."""
    return EnsembleSummary(
        name=wire.name,
        members=tuple(Voter(member=voter.member, family=voter.family, weight=voter.weight) for voter in wire.members),
        classify_strategy=wire.classify_strategy,
        generate_strategy=wire.generate_strategy,
    )


def report_from_wire(wire: pb.GetEnsembleResponse) -> EnsembleReport:
    """Read an ensemble's report."""
    members = (
        MemberState(
            member=member.member,
            checkpoint=member.checkpoint,
            replicas=tuple(
                ReplicaState(replica_id=replica.replica_id, stats=stats_from_wire(replica.stats))
                for replica in member.replicas
            ),
            problem=member.problem,
            starts=tuple(map(start_from_wire, member.starts)),
        )
        for member in wire.members
    )
    return EnsembleReport(ensemble=summary_from_wire(wire.ensemble), members=tuple(members))
