"""A replica choice that goes through a list."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ensemble.router.ports import ReplicaAddress, ReplicaReport


@dataclass(slots=True, kw_only=True)
class FakeReplicaPicker:
    """A ReplicaPicker that gives ``addresses`` in turn, the last one for ever; with none it waits for one for ever."""

    addresses: tuple[str, ...] = ()
    error: Exception | None = None
    replica_reports: tuple[ReplicaReport, ...] = ()
    picked: list[str] = field(default_factory=list)

    async def pick(self) -> ReplicaAddress:
        """Give the next address."""
        if self.error is not None:
            raise self.error
        if not self.addresses:
            await asyncio.Event().wait()
        address = self.addresses[min(len(self.picked), len(self.addresses) - 1)]
        self.picked.append(address)
        return ReplicaAddress(replica_id=f"replica-{len(self.picked)}", address=address)

    async def reports(self) -> tuple[ReplicaReport, ...]:
        """Give the scripted reports; with no address to ask it waits for ever."""
        if self.error is not None:
            raise self.error
        if not self.addresses:
            await asyncio.Event().wait()
        return self.replica_reports
