"""The one class that all deployments run: a Serve replica that owns a server of ours."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ray import serve, util
from ray.serve.handle import DeploymentHandle

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.engine import EngineStats
from ensemble.router.ports import ReplicaPicker
from ensemble.serving.replica_picker import ADDRESS_KEY, ServeReplicaPicker
from ensemble.serving.start_board import start_board, start_told
from ensemble.serving.start_notes import ReplicaName


class Server(Protocol):
    """What runs in a replica."""

    @property
    def port(self) -> int:
        """The port that it listens on."""
        ...

    def stats(self) -> EngineStats | None:
        """Read the engine's counters, if there is an engine."""
        ...

    async def check_health(self) -> None:
        """Return when it can serve; raise when it cannot, and Serve replaces the replica."""
        ...

    async def stop(self, *, grace_s: float) -> None:
        """Take no new calls, let those under way end for ``grace_s``, and free everything."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a replica is, the other deployments that it may call, by name, and who hears what its start is at."""

    replica_id: str
    node_ip: str
    picker_by_name: Mapping[str, ReplicaPicker]
    on_phase: OnPhase = ignore_phase


StartServer = Callable[[Place], Awaitable[Server]]
"""Starts a server in a replica; pickled, so a module's function, or a partial of one."""


class ServerReplica:
    """Starts its server, publishes the address, and stops the server gracefully."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, start: StartServer, handles: Mapping[str, DeploymentHandle[Any]], drain_timeout_s: float
    ) -> None:
        context = serve.get_replica_context()
        self._replica_id = context.replica_id.unique_id
        self._drain_timeout_s = drain_timeout_s
        self._node_ip = util.get_node_ip_address()  # type: ignore[no-untyped-call]
        name = ReplicaName(application=context.app_name, deployment=context.deployment, replica_id=self._replica_id)
        async with start_told(start_board(), name) as teller:
            place = Place(
                replica_id=self._replica_id,
                node_ip=self._node_ip,
                picker_by_name={name: ServeReplicaPicker(name, handle) for name, handle in handles.items()},
                on_phase=teller.on_phase,
            )
            self._server = await start(place)
        # What is loaded by now stays: the collector need not walk all of Ray's and torch's objects again and again.
        gc.collect()
        gc.freeze()

    async def record_replica_metadata(self) -> dict[str, Any]:
        """Publish the server's address: Serve hands it to everyone who chooses this replica."""
        host = f"[{self._node_ip}]" if ":" in self._node_ip else self._node_ip
        return {ADDRESS_KEY: f"{host}:{self._server.port}"}

    async def report(self) -> dict[str, Any]:
        """Tell the engine's counters."""
        stats = self._server.stats()
        return {"replica_id": self._replica_id, "stats": asdict(stats) if stats else {}}

    async def check_health(self) -> None:
        """Let Serve know whether this replica must be replaced."""
        await self._server.check_health()

    async def __del__(self) -> None:
        # Serve awaits this when it stops a replica; without it calls under way are cut off.
        if hasattr(self, "_server"):
            await self._server.stop(grace_s=self._drain_timeout_s)
