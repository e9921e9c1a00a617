"""How many workers a spec wants, and how large one is: the smallest on which the plan finds room for all replicas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ensemble.checkpoints.reference import STORE_PREFIX
from ensemble.config import MemberConfig, Spec
from ensemble.engines.footprint import GIB
from ensemble.errors import ConfigError
from ensemble.manifests.volumes import MODELS, is_below
from ensemble.planning.demand import Demand, build_demands
from ensemble.planning.machine import Gpu, Node
from ensemble.planning.plan import plan_demands

RAY_GIB = 1.0
"""A node's own processes with Serve's proxy; a whole worker with four small replicas was measured at 0.7 GiB."""
ROOM = 2
"""Cores and memory hold all replicas so often, since an update starts the new ones before the old ones end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSize:
    """Workers, and what each of them has."""

    workers: int
    cpus: int
    memory_gib: int
    gpus: int


def measure_demands(spec: Spec, volume: Path | None) -> tuple[Demand, ...]:
    """Say what every deployment takes; ``volume`` is a copy of the volume of models, if there is one here.

    Raises:
        ConfigError: neither a checkpoint nor the spec says how much memory a replica takes.
        CheckpointError: a checkpoint that is here cannot be measured.
    """
    members = tuple(_with_local_checkpoints(member, volume) for member in spec.members)
    demands = build_demands(spec.model_copy(update={"members": members}), absent="anywhere")
    for demand in demands:
        if not demand.host_bytes:
            raise ConfigError(
                f"{demand.where}.memory_gib",
                f"it reserves none, and the checkpoint of {demand.name} is not here to be measured",
                "state it, or give --models from a copy of the volume",
            )
    return demands


def size_workers(spec: Spec, *, volume: Path | None = None, gpu_memory_gib: float = 0.0) -> WorkerSize:
    """Find the smallest worker, one for each router, on whose number `ensemble plan` places every replica.

    GPUs have room for one set of replicas: with them, an update is a second cluster. With ``gpu_memory_gib`` a member
    must fit its share of a GPU of that memory.

    Raises:
        ConfigError: a member fits no share of such a GPU, or nobody knows its memory.
        CheckpointError: a checkpoint that is here cannot be measured.
    """
    (router,), demands = _part(measure_demands(spec, volume))
    workers = spec.router.replicas
    gpu_bytes = int(gpu_memory_gib * GIB) or None
    most = WorkerSize(
        workers=workers,
        cpus=math.ceil(ROOM * (router.cpus + sum(one.cpus * one.replicas for one in demands))),
        memory_gib=math.ceil(
            RAY_GIB + ROOM * (router.host_bytes + sum(one.host_bytes * one.replicas for one in demands)) / GIB
        ),
        gpus=sum(one.num_gpus * one.replicas for one in demands),
    )

    def plan(size: WorkerSize) -> None:
        plan_demands(demands, make_workers(size, router, gpu_bytes=gpu_bytes, room=ROOM))

    def is_enough(size: WorkerSize) -> bool:
        try:
            plan(size)
        except ConfigError:
            return False
        return True

    # What does not fit the largest fits none, and the plan says why.
    plan(most)
    # A replica on several GPUs has them on one worker.
    whole = max((one.num_gpus for one in demands), default=0)
    size = replace(most, gpus=_least(whole, most.gpus, lambda gpus: is_enough(replace(most, gpus=gpus))))
    size = replace(size, cpus=_least(1, size.cpus, lambda cpus: is_enough(replace(size, cpus=cpus))))
    return replace(size, memory_gib=_least(1, size.memory_gib, lambda gib: is_enough(replace(size, memory_gib=gib))))


def make_workers(size: WorkerSize, router: Demand, *, gpu_bytes: int | None = None, room: int = 1) -> tuple[Node, ...]:
    """Describe workers as the plan sees them: without what Ray and the worker's own router take, a ``room``th of it."""
    return tuple(
        Node(
            name=f"worker-{number}",
            cpus=max(0.0, size.cpus / room - router.cpus),
            memory_bytes=max(0, int((size.memory_gib - RAY_GIB) * GIB / room) - router.host_bytes),
            gpus=tuple(Gpu(index=index, memory_bytes=gpu_bytes) for index in range(size.gpus)),
        )
        for number in range(size.workers)
    )


def check_workers(spec: Spec, size: WorkerSize) -> None:
    """Check that workers of this size hold a spec's replicas, once.

    Raises:
        ConfigError: they do not; with what was wanted and what is there.
        CheckpointError: a checkpoint that is here cannot be measured.
    """
    (router,), demands = _part(measure_demands(spec, None))
    plan_demands(demands, make_workers(size, router))


def _part(demands: Sequence[Demand]) -> tuple[list[Demand], list[Demand]]:
    """Part the router, which every worker has one of, from what may lie anywhere."""
    return [one for one in demands if one.where == "router"], [one for one in demands if one.where != "router"]


def _least(low: int, high: int, is_enough: Callable[[int], bool]) -> int:
    """Find the least number that is enough; ``high`` is."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return high


def _with_local_checkpoints(member: MemberConfig, volume: Path | None) -> MemberConfig:
    """Name a member's checkpoints where they can be measured; what is not in the copy keeps its name."""

    def local(reference: str) -> str:
        name, at, lies = reference.partition("@") if reference.startswith(STORE_PREFIX) else ("", "", reference)
        if volume is None or not lies or not is_below(lies, MODELS):
            return reference
        path = volume / Path(lies).relative_to(MODELS)
        return f"{name}{at}{path}" if path.exists() else reference

    engine = member.engine
    if hasattr(engine, "others"):
        engine = engine.model_copy(update={"others": tuple(map(local, engine.others))})
    return member.model_copy(update={"checkpoint": local(member.checkpoint), "engine": engine})
