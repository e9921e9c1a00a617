"""What a spec asks of machines: each deployment's replicas, with what they need and what they reserve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ensemble.checkpoints.measure import measure_checkpoint
from ensemble.checkpoints.reference import HubReference, parse_reference
from ensemble.config import MemberConfig, Spec
from ensemble.engines.footprint import GIB, PROCESS_BYTES, Footprint, measure_footprint
from ensemble.environment import cache_dir
from ensemble.errors import CheckpointError, ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One deployment: its place in the spec, its replicas, and what one of them takes.

    ``gpus`` and ``reserved_bytes`` are as the spec has them; ``host_bytes`` is what the replica takes of its node's
    memory, reserved or measured, whichever is more. ``footprint`` is None where the checkpoint lies on another machine.
    """

    where: str
    name: str
    replicas: int
    cpus: float
    host_bytes: int
    reserved_bytes: int = 0
    gpus: float = 0.0
    footprint: Footprint | None = None
    is_on_gpu: bool = False
    parallel: str = ""

    @property
    def num_gpus(self) -> int:
        """GPUs that a replica is on, wholly or not."""
        return max(1, int(self.gpus)) if self.gpus else 0

    @property
    def share(self) -> float:
        """What a replica has of each of its GPUs."""
        return min(1.0, self.gpus)


Absent = Literal["nowhere", "hub", "anywhere"]
"""Where a checkpoint may be that cannot be measured here, since the member's node alone has it or will fetch it."""


def build_demands(spec: Spec, *, absent: Absent = "nowhere") -> tuple[Demand, ...]:
    """Measure what a spec asks for; checkpoints that may be absent here, and are, are left open.

    Raises:
        CheckpointError: a checkpoint cannot be measured.
        ConfigError: an engine's parallel sizes do not fit its model.
    """
    members = tuple(_member_demand(i, member, absent) for i, member in enumerate(spec.members))
    parts = (("router", spec.router.cpus, spec.router.replicas), ("voting", spec.voting.cpus, spec.voting.replicas))
    return (
        *members,
        *(
            Demand(
                where=name,
                name=name,
                replicas=replicas,
                cpus=cpus,
                host_bytes=PROCESS_BYTES,
                footprint=Footprint(host_bytes=PROCESS_BYTES),
            )
            for name, cpus, replicas in parts
        ),
    )


def measure_member(member: MemberConfig) -> Footprint:
    """Measure what one of a member's replicas needs.

    Raises:
        CheckpointError: its checkpoint cannot be measured.
        ConfigError: its engine's parallel sizes do not fit its model.
    """
    return measure_footprint(
        member.engine, checkpoint=member.checkpoint, on_gpu=member.is_on_gpu, cache_dir=checkpoint_cache()
    )


def checkpoint_cache() -> Path:
    """Give the folder of converted checkpoints."""
    return cache_dir() / "checkpoints"


def _member_demand(index: int, member: MemberConfig, absent: Absent) -> Demand:
    where = f"members[{index}]"
    footprint = _measure(where, member, absent)
    resources = member.resources
    needed_bytes = 0
    if footprint is not None:
        needed_bytes = footprint.host_bytes + (0 if member.is_on_gpu else footprint.least_bytes)
    sizes = (getattr(member.engine, f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
    return Demand(
        where=f"{where}.resources",
        name=member.name,
        replicas=member.replicas,
        cpus=resources.cpus,
        host_bytes=max(needed_bytes, int(resources.memory_gib * GIB)),
        reserved_bytes=int(resources.memory_gib * GIB),
        gpus=resources.gpus,
        footprint=footprint,
        is_on_gpu=member.is_on_gpu,
        parallel=" x ".join(map(str, sizes)) if member.num_parallel > 1 else "",
    )


def _measure(where: str, member: MemberConfig, absent: Absent) -> Footprint | None:
    try:
        return measure_member(member)
    except CheckpointError as error:
        if absent == "anywhere":
            return None
        failures = _find_failures(member)
        on_hub = {field for field in failures if absent == "hub" and _is_on_hub(member.checkpoint_by_field[field])}
        if failures and on_hub == set(failures):
            return None
        # Without any, the checkpoint was measured and does not suit its engine.
        field, failure = next((one for one in failures.items() if one[0] not in on_hub), ("checkpoint", error))
        raise CheckpointError(
            f"{where}.{field}", f"member {member.name}: {failure.where}: {failure.problem}", failure.remedy
        ) from error
    except ConfigError as error:
        raise ConfigError(f"{where}.{error.where}", error.problem, error.remedy) from error


def _find_failures(member: MemberConfig) -> dict[str, CheckpointError]:
    """Say which of a member's checkpoints cannot be measured here, by field, and why."""
    failures = {}
    for field, reference in member.checkpoint_by_field.items():
        try:
            measure_checkpoint(reference, has_weights=member.has_weights, cache_dir=checkpoint_cache())
        except CheckpointError as error:
            failures[field] = error
    return failures


def _is_on_hub(reference: str) -> bool:
    try:
        return isinstance(parse_reference(reference), HubReference)
    except CheckpointError:
        return False
