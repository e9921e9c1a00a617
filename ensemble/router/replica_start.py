"""Where a replica's start is."""

from __future__ import annotations

from dataclasses import dataclass

from ensemble.errors import StartError

SILENT_S = 15.0
"""A replica that starts tells every few seconds where it is. One that is silent for longer is gone, or something holds
up everything in its process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStart:
    """Where a replica is that is not up yet, or was when its start failed.

    ``share`` of the phase is done, in [0, 1], 0 where that is not known; ``phase_s`` is how long it has been in the
    phase, ``silent_s`` how long nothing was heard of it. ``problem`` is empty unless the start failed.
    """

    replica_id: str
    phase: str
    share: float
    phase_s: float
    silent_s: float = 0.0
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return str(StartError(self.problem, self.phase))
        share = f" {self.share:.0%}" if 0 < self.share < 1 else ""
        silence = f", silent for {self.silent_s:.0f} s" if self.silent_s > SILENT_S else ""
        return f"{self.phase}{share} for {self.phase_s:.0f} s{silence}"
