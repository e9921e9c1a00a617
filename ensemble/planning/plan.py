"""From a spec and machines to a plan, or to a refusal with figures.

A replica's share of a GPU is its share of the GPU's memory: what it needs must fit its share, so that a GPU whose
shares add up to one at most holds all that Ray may put there, in whatever order that comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.config import Spec
from ensemble.engines.footprint import GIB, Footprint
from ensemble.errors import ConfigError
from ensemble.planning.demand import Absent, Demand, build_demands
from ensemble.planning.fit import USABLE_SHARE, cache_room, describe_need
from ensemble.planning.machine import Node
from ensemble.planning.placement import UNIT, Item, Misfit, Spot, find_spots


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedReplica:
    """One replica and where it goes: ``gpus`` are pairs of a node's and a GPU's position.

    ``cache_bytes`` is what its cache gets on each of its devices: what is left of its share, or as much as it can use.
    """

    demand: Demand
    replica: int
    node: int
    gpus: tuple[tuple[int, int], ...]
    cache_bytes: int

    @property
    def gpu_bytes(self) -> int:
        """What it takes on each of its GPUs."""
        footprint = self.demand.footprint
        if footprint is None or not self.gpus:
            return 0
        return footprint.weight_bytes + self.cache_bytes + footprint.reserve_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What goes where."""

    nodes: tuple[Node, ...]
    replicas: tuple[PlannedReplica, ...]


def plan_spec(spec: Spec, nodes: Sequence[Node], *, absent: Absent = "nowhere") -> Plan:
    """Place every replica of a spec on these nodes.

    Raises:
        ConfigError: it does not fit; with what was wanted, what is there, and what to change.
        CheckpointError: a checkpoint cannot be measured.
    """
    return plan_demands(build_demands(spec, absent=absent), nodes)


def plan_demands(demands: Sequence[Demand], nodes: Sequence[Node]) -> Plan:
    """Place every replica that is asked for on these nodes.

    Raises:
        ConfigError: it does not fit.
    """
    for demand in demands:
        _check_one_fits(demand, nodes)
        _check_gpu_memory(demand, nodes)
    _check_sums(demands, nodes)
    wanted = [(demand, number) for demand in demands for number in range(demand.replicas)]
    spots = find_spots([_item(demand) for demand, _ in wanted], nodes)
    if isinstance(spots, Misfit):
        raise _misfit_error(wanted[spots.item][0], spots, nodes)
    replicas = tuple(
        _planned(demand, number, spot, nodes) for (demand, number), spot in zip(wanted, spots, strict=True)
    )
    return Plan(nodes=tuple(nodes), replicas=replicas)


def _item(demand: Demand) -> Item:
    least_bytes = demand.footprint.least_bytes if demand.footprint and demand.is_on_gpu else 0
    return Item(
        cpus=round(demand.cpus * UNIT),
        memory_bytes=demand.host_bytes,
        num_gpus=demand.num_gpus,
        share=round(demand.share * UNIT),
        gpu_bytes=int(least_bytes / (USABLE_SHARE * demand.share)) if least_bytes else 0,
    )


def _planned(demand: Demand, number: int, spot: Spot, nodes: Sequence[Node]) -> PlannedReplica:
    footprint = demand.footprint or Footprint()
    sizes = [nodes[node].gpus[gpu].memory_bytes for node, gpu in spot.gpus]
    known = [size for size in sizes if size is not None]
    cache_bytes = footprint.min_cache_bytes
    if known and demand.is_on_gpu:
        cache_bytes = cache_room(footprint, gpu_bytes=min(known), share=demand.share)
    return PlannedReplica(demand=demand, replica=number, node=spot.node, gpus=spot.gpus, cache_bytes=cache_bytes)


def _check_one_fits(demand: Demand, nodes: Sequence[Node]) -> None:
    """Check that one node is large enough for one replica; a parallel one's GPUs may lie on several."""
    if demand.num_gpus <= 1:
        most = max((float(len(node.gpus)) for node in nodes), default=0.0)
        _refuse_more(f"{demand.where}.gpus", demand.gpus, most, "ask for less")
    most = max((node.cpus for node in nodes), default=0.0)
    _refuse_more(f"{demand.where}.cpus", demand.cpus, most, "ask for less")
    most_gib = max((_reservable_bytes(node) for node in nodes), default=0) / GIB
    _refuse_more(f"{demand.where}.memory_gib", demand.reserved_bytes / GIB, most_gib, "ask for less")
    most_bytes = max((node.memory_bytes for node in nodes), default=0)
    if demand.host_bytes > most_bytes:
        raise ConfigError(
            f"{demand.where}.memory_gib",
            f"a replica of {demand.name} takes {demand.host_bytes / GIB:.4g} GiB of memory"
            f"{describe_need(demand.footprint)}, but the largest node has {most_bytes / GIB:.4g}",
            "take a smaller checkpoint, or lower engine.kv_cache_gib, max_batch or max_context",
        )


def _refuse_more(where: str, need: float, most: float, remedy: str) -> None:
    if need > most:
        raise ConfigError(where, f"it is {need:g}, but the largest node has {most:g}", remedy)


def _check_gpu_memory(demand: Demand, nodes: Sequence[Node]) -> None:
    """Check that what a replica needs on a GPU fits its share of one."""
    sizes = [gpu.memory_bytes for node in nodes for gpu in node.gpus]
    if demand.footprint is None or not demand.is_on_gpu or None in sizes:
        return
    need_bytes = demand.footprint.least_bytes
    largest_bytes = max((size for size in sizes if size is not None), default=0)
    room_bytes = largest_bytes * demand.share * USABLE_SHARE
    if need_bytes <= room_bytes:
        return
    wanted_share = need_bytes / (largest_bytes * USABLE_SHARE)
    remedy = (
        f"set resources.gpus to {wanted_share + 0.005:.2f} or more"
        if demand.num_gpus == 1 and wanted_share <= 0.99
        else "split it (engine.tensor_parallel_size), quantise it"
    )
    raise ConfigError(
        f"{demand.where}.gpus",
        f"a replica of {demand.name} needs {need_bytes / GIB:.1f} GiB on a GPU{describe_need(demand.footprint)}, but "
        f"{demand.share:g} of the largest GPU, {largest_bytes / GIB:.1f} GiB, leaves {room_bytes / GIB:.1f} GiB",
        f"{remedy}, or lower engine.kv_cache_gib or max_context",
    )


def _check_sums(demands: Sequence[Demand], nodes: Sequence[Node]) -> None:
    """Check that all nodes together have enough: the plainest of refusals."""
    reserved_gib = sum(one.reserved_bytes * one.replicas for one in demands) / GIB
    wanted_gib = sum(one.host_bytes * one.replicas for one in demands) / GIB
    sums = (
        ("gpus", sum(one.gpus * one.replicas for one in demands), float(sum(len(node.gpus) for node in nodes))),
        ("cpus", sum(one.cpus * one.replicas for one in demands), sum(node.cpus for node in nodes)),
        ("memory_gib", reserved_gib, sum(map(_reservable_bytes, nodes)) / GIB),
        ("memory_gib", wanted_gib, sum(node.memory_bytes for node in nodes) / GIB),
    )
    for kind, need, have in sums:
        # Shares like 0.1 do not add up exactly; Ray counts ten-thousandths.
        if round(need * UNIT) > round(have * UNIT):
            raise ConfigError(
                f"resources.{kind}",
                f"all replicas together ask for {need:.6g}, but the machines have {have:.6g}",
                "ask for less, or add a node",
            )


def _reservable_bytes(node: Node) -> int:
    return node.memory_bytes if node.reservable_bytes is None else node.reservable_bytes


def _misfit_error(demand: Demand, misfit: Misfit, nodes: Sequence[Node]) -> ConfigError:
    left = ", ".join(
        f"{share / UNIT:g} of GPU {gpu.index} on {node.name}"
        for node, shares in zip(nodes, misfit.shares, strict=False)
        for gpu, share in zip(node.gpus, shares, strict=True)
    )
    wanted = f"{demand.gpus:g} GPUs, {demand.cpus:g} cpus and {demand.host_bytes / GIB:.3g} GiB of memory"
    return ConfigError(
        f"{demand.where}" + (".gpus" if demand.gpus else ""),
        f"no node has room for a replica of {demand.name} ({wanted}) once the others are placed"
        + (f"; left are {left}" if left else ""),
        "ask for shares that fill the GPUs, for fewer replicas, or add a node",
    )
