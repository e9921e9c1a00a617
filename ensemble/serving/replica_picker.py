"""Replica choice by Ray Serve, for calls that Serve does not carry."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from ensemble.engines.engine import EngineStats
from ensemble.errors import MemberUnavailableError
from ensemble.router.ports import ReplicaAddress, ReplicaReport
from ensemble.serving.start_board import read_starts

ADDRESS_KEY = "grpc_address"
"""Where a replica's metadata has its server's ``host:port``."""
REPORT_TIMEOUT_S = 3.0
"""Shorter than what whoever asks for reports waits: those that start shall be told even when none is up."""


class ServeReplicaPicker:
    """A ReplicaPicker over a deployment handle."""

    def __init__(self, name: str, handle: DeploymentHandle[Any]) -> None:
        self._name = name
        self._handle = handle

    async def pick(self) -> ReplicaAddress:
        """Let Serve choose.

        No slot is reserved (``_reserve`` is Serve's own private switch, hence the pinned version): a reservation is a
        call to the replica, which costs more than the vote, and our server limits itself.
        """
        try:
            async with self._handle.choose_replica(_reserve=False) as selection:
                address = selection.replica_metadata[ADDRESS_KEY]
                return ReplicaAddress(replica_id=selection.replica_id, address=address)
        except (RayServeException, RayError, KeyError) as error:
            raise MemberUnavailableError(self._name, f"no replica can be chosen ({error})") from error

    async def reports(self) -> tuple[ReplicaReport, ...]:
        """Ask every replica for its counters, and the board about those that are not up."""
        starts = await asyncio.to_thread(read_starts, self._handle.app_name)
        starting = tuple(
            ReplicaReport(replica_id=start.replica_id, stats=EngineStats(), start=start)
            for start in starts.get(self._handle.deployment_name, ())
        )
        try:
            # Without a replica it raises, or waits for one.
            async with asyncio.timeout(REPORT_TIMEOUT_S):
                results = await self._handle.broadcast("report").results_async(return_exceptions=True)
        except (RayServeException, RayError, TimeoutError) as error:
            if starting:
                return starting
            raise MemberUnavailableError(self._name, f"its replicas do not report ({error})") from error
        # A replica that died a moment ago is no reason to keep silent about the others.
        running = tuple(
            ReplicaReport(replica_id=result["replica_id"], stats=EngineStats(**result["stats"]))
            for result in results
            if isinstance(result, dict)
        )
        # The board may not have heard yet that one of them is up.
        up = {report.replica_id for report in running}
        return running + tuple(report for report in starting if report.replica_id not in up)
