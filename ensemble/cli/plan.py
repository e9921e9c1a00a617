"""``ensemble plan``: what would go where, before anything starts."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemble.cli import options
from ensemble.cli.decision_json import to_json
from ensemble.cli.plan_view import draw_members, draw_nodes, plan_to_dict
from ensemble.cli.terminal import stdout_console
from ensemble.cli.validate import SpecPath
from ensemble.errors import InvalidRequestError
from ensemble.planning.machine import Node, local_node, make_nodes
from ensemble.planning.plan import plan_spec
from ensemble.spec_file import load_spec

_MADE_UP = "of the made-up machines"


def plan(  # noqa: PLR0913 - a command's options are its arguments
    spec: SpecPath,
    *,
    address: Annotated[str, typer.Option(help="Plan for this running Ray cluster's nodes (host:port, or auto).")] = "",
    nodes: Annotated[
        int, typer.Option(min=0, max=1_000, help="Plan for this many equal machines that need not exist.")
    ] = 0,
    gpus_per_node: Annotated[int, typer.Option(min=0, max=64, help=f"GPUs {_MADE_UP}.")] = 0,
    gpu_memory_gib: Annotated[float, typer.Option(min=0.0, help=f"Memory of each GPU {_MADE_UP}.")] = 80.0,
    node_cpus: Annotated[float, typer.Option(min=0.0, help=f"Cores {_MADE_UP}.")] = 16.0,
    node_memory_gib: Annotated[float, typer.Option(min=0.0, help=f"Memory {_MADE_UP}.")] = 128.0,
    as_json: options.AsJson = False,
) -> None:
    """Show what would go where: this machine, a cluster (--address) or made-up machines (--nodes); nothing is started.

    Weights are measured from the checkpoints' headers, caches from the models' configs and the engines' limits; the
    reserve is for activations, CUDA's context and graphs. A replica must fit its share of a GPU (resources.gpus), which
    is its share of the GPU's memory too. vLLM's cache gets what its share leaves, unless engine.kv_cache_gib says. What
    does not fit is refused, with 2 as the exit code; serve refuses it alike.

    With --json one object is printed: nodes: [{name, cpus, cpus_used, memory_bytes, memory_bytes_used, gpus: [{index,
    name, memory_bytes, share_used, bytes_used, members}]}], replicas: [{member, replica, node, gpus: [{node, index}],
    share, parallel, gpu_bytes, memory_bytes, cpus, measured: {dtype, quantization, weight_bytes, cache_bytes,
    most_cache_bytes, reserve_bytes}}]; weights, cache and reserve are of each of the replica's GPUs, or of its node's
    memory where it has none.
    """
    if address and nodes:
        raise InvalidRequestError("--nodes", "a cluster's nodes are what they are", "leave --address or --nodes out")
    checked = load_spec(spec)
    made_up = make_nodes(
        nodes, gpus=gpus_per_node, gpu_memory_gib=gpu_memory_gib, cpus=node_cpus, memory_gib=node_memory_gib
    )
    machines = _cluster_nodes(address) if address else made_up or (local_node(),)
    planned = plan_spec(checked, machines)
    if as_json:
        typer.echo(to_json(plan_to_dict(planned)))
        return
    console = stdout_console()
    console.print(draw_members(planned))
    console.print()
    console.print(draw_nodes(planned))
    console.print("\nin GiB; it fits", style="dim")


def _cluster_nodes(address: str) -> tuple[Node, ...]:
    # It brings Ray along, which takes a second.
    from ensemble.serving.cluster import cluster_nodes, ray_cluster  # noqa: PLC0415

    with ray_cluster(address):
        return cluster_nodes(with_facts=True)
