"""What a member's replicas are doing, to and from the wire."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble.router.ports import ReplicaReport
from ensemble.router.replica_start import ReplicaStart
from ensemble.rpc.convert_member import stats_to_wire
from ensemble.rpc.convert_vote import duration_from_wire, duration_to_wire
from ensemble.v1 import ensemble_service_pb2 as pb


def reports_to_wire(member: str, checkpoint: str, reports: Sequence[ReplicaReport]) -> pb.MemberState:
    """Make the wire's state of a member that answered."""
    return pb.MemberState(
        member=member,
        checkpoint=checkpoint,
        replicas=[
            pb.ReplicaState(replica_id=report.replica_id, stats=stats_to_wire(report.stats))
            for report in reports
            if report.start is None
        ],
        starts=[_start_to_wire(report.start) for report in reports if report.start is not None],
    )


def start_from_wire(wire: pb.ReplicaStart) -> ReplicaStart:
    """Read where a replica's start is."""
    return ReplicaStart(
        replica_id=wire.replica_id,
        phase=wire.phase,
        share=wire.share,
        phase_s=duration_from_wire(wire.phase_time, "starts.phase_time"),
        silent_s=duration_from_wire(wire.silence, "starts.silence"),
        problem=wire.problem,
    )


def _start_to_wire(start: ReplicaStart) -> pb.ReplicaStart:
    return pb.ReplicaStart(
        replica_id=start.replica_id,
        phase=start.phase,
        share=start.share,
        phase_time=duration_to_wire(start.phase_s),
        silence=duration_to_wire(start.silent_s),
        problem=start.problem,
    )
