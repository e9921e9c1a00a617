"""How many workers a spec wants, and how large one is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.config import ResourcesConfig, Spec

RAY_GIB = 1.0
"""A node's own processes with Serve's proxy; a whole worker with four small replicas was measured at 0.7 GiB."""
UNSAID_GIB = 1.5
"""For a replica whose spec reserves no memory; SmolLM2-135M in float32 takes about 1 GiB with torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSize:
    """Workers, and what each of them has."""

    workers: int
    cpus: int
    memory_gib: int
    gpus: int


def wanted_resources(spec: Spec) -> dict[str, tuple[ResourcesConfig, int]]:
    """Say what one replica reserves and how many there are, by place in the spec."""
    wanted = {f"members[{i}].resources": (member.resources, member.replicas) for i, member in enumerate(spec.members)}
    for place, part in (("router", spec.router), ("voting", spec.voting)):
        wanted[place] = (ResourcesConfig(cpus=part.cpus), part.replicas)
    return wanted


def size_workers(spec: Spec) -> WorkerSize:
    """Spread a spec's replicas over one worker a router; each worker gets what the fullest of them needs.

    Cores and memory have room for all replicas twice, since an update starts the new ones before the old ones end. GPUs
    have not: with them, an update is a second cluster.
    """
    worker_of: list[list[ResourcesConfig]] = [[] for _ in range(spec.router.replicas)]
    replicas = [resources for resources, count in wanted_resources(spec).values() for _ in range(count)]
    for resources in sorted(replicas, key=_size, reverse=True):
        min(worker_of, key=_load).append(resources)
    return WorkerSize(
        workers=len(worker_of),
        cpus=math.ceil(2 * max(map(_cpus, worker_of))),
        memory_gib=math.ceil(RAY_GIB + 2 * max(map(_memory_gib, worker_of))),
        gpus=max(map(_num_gpus, worker_of)),
    )


def _size(resources: ResourcesConfig) -> tuple[float, float, float]:
    return resources.gpus, _gib(resources), resources.cpus


def _load(held: Sequence[ResourcesConfig]) -> tuple[float, float, float]:
    return sum(one.gpus for one in held), _memory_gib(held), _cpus(held)


def _gib(resources: ResourcesConfig) -> float:
    return resources.memory_gib or UNSAID_GIB


def _memory_gib(held: Sequence[ResourcesConfig]) -> float:
    return sum(map(_gib, held))


def _cpus(held: Sequence[ResourcesConfig]) -> float:
    return sum(one.cpus for one in held)


def _num_gpus(held: Sequence[ResourcesConfig]) -> int:
    """Count the GPUs that hold these shares; a share lies on one GPU, the largest are laid first."""
    left: list[float] = []
    for share in sorted((one.gpus for one in held if one.gpus), reverse=True):
        if share > 1:
            left += [0.0] * math.ceil(share)
            continue
        fitting = next((index for index, room in enumerate(left) if room + 1e-9 >= share), None)
        if fitting is None:
            left.append(1.0 - share)
        else:
            left[fitting] -= share
    return len(left)
