"""What is told of a member's replicas: those that are up by themselves, the others by the board."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import pytest

from ensemble.engines.engine import EngineStats
from ensemble.router.replica_start import ReplicaStart
from ensemble.serving import replica_picker
from ensemble.serving.replica_picker import ServeReplicaPicker


@dataclass(slots=True)
class FakeHandle:
    """A deployment's handle: its replicas report at once."""

    reporting: tuple[str, ...]
    app_name: str = "shop"
    deployment_name: str = "member-a"

    def broadcast(self, method: str) -> FakeHandle:
        """Ask all."""
        assert method == "report"
        return self

    async def results_async(self, *, return_exceptions: bool) -> list[dict[str, Any]]:
        """Give what they say."""
        assert return_exceptions
        return [{"replica_id": replica_id, "stats": asdict(EngineStats())} for replica_id in self.reporting]


async def test_a_replica_that_reports_is_not_told_as_starting_too(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = tuple(ReplicaStart(replica_id=one, phase="warm up", share=1.0, phase_s=2.0) for one in ("1", "2"))
    monkeypatch.setattr(replica_picker, "read_starts", lambda _application: {"member-a": starts})

    reports = await ServeReplicaPicker("a", cast("Any", FakeHandle(("1",)))).reports()

    assert [(report.replica_id, report.start is not None) for report in reports] == [("1", False), ("2", True)]
