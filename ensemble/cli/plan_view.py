"""Draws a plan, and writes it as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.table import Table
from rich.text import Text

from ensemble.engines.footprint import GIB, Footprint
from ensemble.planning.machine import Node
from ensemble.planning.plan import Plan, PlannedReplica

_COLUMNS = ("weights", "cache", "reserve", "on each GPU", "on the node", "cpus")


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Give a plan as JSON writes it."""
    return {
        "nodes": [_node_to_dict(plan, index) for index in range(len(plan.nodes))],
        "replicas": [_replica_to_dict(plan, replica) for replica in plan.replicas],
    }


def draw_members(plan: Plan) -> Table:
    """Draw every replica: where it goes and what it takes; sizes are of each GPU, in GiB."""
    table = _table("node", "GPU", "member", "replica", "tp x pp", "dtype", "quantisation", right=("share", *_COLUMNS))
    order = sorted(plan.replicas, key=lambda replica: (replica.node, replica.gpus))
    for replica in order:
        demand = replica.demand
        footprint = demand.footprint or Footprint()
        cells = (
            plan.nodes[replica.node].name,
            _name_gpus(plan, replica),
            demand.name,
            f"{replica.replica + 1}/{demand.replicas}",
            demand.parallel,
            footprint.dtype,
            footprint.quantization,
            f"{demand.share:g}" if replica.gpus else "",
            *_sizes(replica),
            _gib(demand.host_bytes),
            f"{demand.cpus:g}",
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table


def draw_nodes(plan: Plan) -> Table:
    """Draw what each node and GPU has, and how much of it is taken; memory is in GiB."""
    table = _table("node", "GPU", right=("members", "share", "memory", "of", "cpus", "of"))
    for index, node in enumerate(plan.nodes):
        here = [replica for replica in plan.replicas if replica.node == index]
        used = _used(plan, index)
        row = (f"{len(here)}", "", _gib(used["memory_bytes"]), _gib(node.memory_bytes))
        table.add_row(node.name, "", *row, f"{used['cpus']:g}", f"{node.cpus:g}")
        for gpu_index, gpu in enumerate(node.gpus):
            there = _on_gpu(plan, index, gpu_index)
            table.add_row(
                "",
                Text(f"{gpu.index} {gpu.name}".strip()),
                str(len(there)),
                f"{sum(replica.demand.share for replica in there):.4g}",
                _gib(sum(replica.gpu_bytes for replica in there)),
                "?" if gpu.memory_bytes is None else _gib(gpu.memory_bytes),
            )
    return table


def _sizes(replica: PlannedReplica) -> tuple[str, ...]:
    footprint = replica.demand.footprint
    if footprint is None:
        return ("not measured here", "", "", "")
    sizes = (footprint.weight_bytes, replica.cache_bytes, footprint.reserve_bytes, replica.gpu_bytes)
    return tuple(_gib(size) if size else "" for size in sizes)


def _name_gpus(plan: Plan, replica: PlannedReplica) -> str:
    names = []
    for node, gpu in replica.gpus:
        index = str(plan.nodes[node].gpus[gpu].index)
        names.append(index if node == replica.node else f"{plan.nodes[node].name}:{index}")
    return ", ".join(names)


def _node_to_dict(plan: Plan, index: int) -> dict[str, Any]:
    node: Node = plan.nodes[index]
    used = _used(plan, index)
    gpus = [
        {
            "index": gpu.index,
            "name": gpu.name,
            "memory_bytes": gpu.memory_bytes,
            "share_used": round(sum(replica.demand.share for replica in _on_gpu(plan, index, number)), 4),
            "bytes_used": sum(replica.gpu_bytes for replica in _on_gpu(plan, index, number)),
            "members": [replica.demand.name for replica in _on_gpu(plan, index, number)],
        }
        for number, gpu in enumerate(node.gpus)
    ]
    return {
        "name": node.name,
        "cpus": node.cpus,
        "cpus_used": used["cpus"],
        "memory_bytes": node.memory_bytes,
        "memory_bytes_used": used["memory_bytes"],
        "gpus": gpus,
    }


def _replica_to_dict(plan: Plan, replica: PlannedReplica) -> dict[str, Any]:
    demand = replica.demand
    footprint = demand.footprint
    measured = None
    if footprint is not None:
        measured = {
            "dtype": footprint.dtype,
            "quantization": footprint.quantization,
            "weight_bytes": footprint.weight_bytes,
            "cache_bytes": replica.cache_bytes,
            "most_cache_bytes": footprint.max_cache_bytes,
            "reserve_bytes": footprint.reserve_bytes,
        }
    return {
        "member": demand.name,
        "replica": replica.replica,
        "node": plan.nodes[replica.node].name,
        "gpus": [
            {"node": plan.nodes[node].name, "index": plan.nodes[node].gpus[gpu].index} for node, gpu in replica.gpus
        ],
        "share": demand.share,
        "parallel": demand.parallel,
        "gpu_bytes": replica.gpu_bytes,
        "memory_bytes": demand.host_bytes,
        "cpus": demand.cpus,
        "measured": measured,
    }


def _used(plan: Plan, index: int) -> dict[str, float]:
    here = [replica.demand for replica in plan.replicas if replica.node == index]
    figures: dict[str, Callable[..., float]] = {
        "cpus": lambda one: one.cpus,
        "memory_bytes": lambda one: one.host_bytes,
    }
    return {name: round(sum(map(figure, here)), 4) for name, figure in figures.items()}


def _on_gpu(plan: Plan, node: int, gpu: int) -> list[PlannedReplica]:
    return [replica for replica in plan.replicas if (node, gpu) in replica.gpus]


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.2f}"


def _table(*columns: str, right: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, justify="right")
    return table
