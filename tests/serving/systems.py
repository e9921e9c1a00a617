"""Applications for the tests that run real processes, and what those tests look at from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

from ensemble.app import deploy
from ensemble.config import Spec
from ensemble.engines.engine import EngineStats
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.rpc.client_events import MemberState
from ensemble.serving.deployment_states import is_running
from ensemble.spec_file import parse_spec
from tests.ports import HOST, free_port

GENEROUS_S = 60.0
"""For what takes a second on a machine that has nothing else to do."""
POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSystem:
    """An application that is up, and where it answers."""

    spec: Spec
    address: str


def echo_member(name: str, *, replicas: int = 1, **engine: object) -> dict[str, Any]:
    """Describe a member without a model; it takes no cores from Ray."""
    return {
        "name": name,
        "family": f"family-{name}",
        "engine": {"type": "echo", **engine},
        "resources": {"cpus": 0},
        "replicas": replicas,
    }


def build_spec(name: str, members: list[dict[str, Any]], **parts: object) -> Spec:
    """Make a spec; without other word there is one ensemble of all members."""
    data = {
        "version": 1,
        "name": name,
        "router": {"port": free_port()},
        "members": members,
        "ensembles": [{"name": "default", "members": [member["name"] for member in members]}],
        **parts,
    }
    return parse_spec(data, source=name, folder=Path.cwd())


def build_shared_spec(tiny_checkpoint: str) -> Spec:
    """Make the spec that most tests share.

    ``panel``: four members of different speed, the first two of one opinion. ``late-NAME``: those two, and NAME, which
    takes far longer than any test; ``only-NAME`` is NAME alone. Processes are what costs time, so there are few.
    """
    delays_s, seeds = (0.0, 0.001, 0.004, 0.01), (0, 0, 1, 2)
    panel = [
        echo_member(f"p{n}", seed=seed, delay_s=delay_s)
        for n, (seed, delay_s) in enumerate(zip(seeds, delays_s, strict=True))
    ]
    tiny = {
        "name": "tiny",
        "family": "llama",
        "checkpoint": tiny_checkpoint,
        "engine": {"type": "embedded", "device": "cpu", "threads": 1, "max_context": 4_096, "max_batch": 4},
        "resources": {"cpus": 0},
    }
    late = [echo_member("words", token_delay_s=0.05), echo_member("scores", delay_s=600.0), tiny]
    names = [str(member["name"]) for member in late]
    return build_spec(
        "shared",
        [*panel, *late],
        ensembles=[
            {"name": "panel", "members": [member["name"] for member in panel]},
            *({"name": f"late-{name}", "members": ["p0", "p1", name]} for name in names),
            *({"name": f"only-{name}", "members": [name]} for name in names),
        ],
        limits={"max_tokens": 4_000, "member_timeout_s": 120.0},
    )


def run(spec: Spec) -> RunningSystem:
    """Deploy a spec on the cluster of these tests and wait until it is up."""
    deploy(spec, on_progress=lambda _states: None)
    return RunningSystem(spec=spec, address=f"{HOST}:{spec.router.port}")


def remove(name: str) -> None:
    """Take an application away, if it is there."""
    if is_running(name):
        serve.delete(name)


async def read_states(client: AsyncEnsembleClient, ensemble: str) -> tuple[MemberState, ...]:
    """Ask how the members do, again where one does not answer in time: the endpoint waits for three seconds."""
    async with asyncio.timeout(GENEROUS_S):
        while True:
            states = (await client.get_ensemble(ensemble)).members
            if not any(state.problem for state in states):
                return states
            await asyncio.sleep(POLL_S)


async def replica_stats(client: AsyncEnsembleClient, ensemble: str, member: str) -> dict[str, EngineStats]:
    """Read a member's counters from its own processes, by replica."""
    (state,) = [state for state in await read_states(client, ensemble) if state.member == member]
    return {replica.replica_id: replica.stats for replica in state.replicas}


async def replica_ids(client: AsyncEnsembleClient, ensemble: str = "") -> dict[str, set[str]]:
    """Name every member's replicas."""
    states = await read_states(client, ensemble)
    return {state.member: {replica.replica_id for replica in state.replicas} for state in states}


async def wait_for_stats(
    client: AsyncEnsembleClient, ensemble: str, member: str, is_so: Callable[[EngineStats], bool]
) -> EngineStats:
    """Poll the only replica of a member until its counters are as wanted."""
    async with asyncio.timeout(GENEROUS_S):
        while True:
            (stats,) = (await replica_stats(client, ensemble, member)).values()
            if is_so(stats):
                return stats
            await asyncio.sleep(POLL_S)
