"""What replicas say of their start: kept for a bounded number of them, and by the keeper's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ensemble.router.replica_start import SILENT_S, ReplicaStart

GONE_S = 4 * SILENT_S
"""A replica that was silent for so long is gone, whether or not another one takes its place."""
MAX_NOTES = 1_000
"""Replicas that are remembered; of more, those that were heard of longest ago are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaName:
    """A replica on a cluster."""

    application: str
    deployment: str
    replica_id: str


@dataclass(slots=True, kw_only=True)
class _Note:
    phase: str
    share: float
    problem: str
    first_s: float
    begun_s: float
    """Of the phase."""
    heard_s: float


@dataclass(slots=True, kw_only=True)
class StartNotes:
    """The last word of every replica that is not up yet, or that failed to come up."""

    clock: Callable[[], float] = time.monotonic
    _note_by_replica: dict[ReplicaName, _Note] = field(default_factory=dict)

    def hear(self, replica: ReplicaName, phase: str, share: float, problem: str) -> None:
        """Take in where a replica is; a ``problem`` says that its start ended there."""
        now_s = self.clock()
        before = self._note_by_replica.pop(replica, None)
        begun_s = before.begun_s if before is not None and before.phase == phase else now_s
        # Put in again, so that the order is that of the last word.
        note = self._note_by_replica[replica] = _Note(
            phase=phase,
            share=share,
            problem=problem,
            first_s=now_s if before is None else before.first_s,
            begun_s=begun_s,
            heard_s=now_s,
        )
        self._forget_others(replica, first_s=note.first_s, until_s=now_s - SILENT_S)
        while len(self._note_by_replica) > MAX_NOTES:
            del self._note_by_replica[next(iter(self._note_by_replica))]

    def forget(self, replica: ReplicaName) -> None:
        """Forget a replica that is up, and those that failed before it began."""
        now_s = self.clock()
        note = self._note_by_replica.pop(replica, None)
        first_s = now_s if note is None else note.first_s
        self._forget_others(replica, first_s=first_s, until_s=now_s - SILENT_S, with_failed=True)

    def tell(self, application: str) -> dict[str, tuple[ReplicaStart, ...]]:
        """Say where an application's replicas are, by deployment, in the order of their last words."""
        now_s = self.clock()
        starts: dict[str, tuple[ReplicaStart, ...]] = {}
        for replica, note in list(self._note_by_replica.items()):
            if not note.problem and now_s - note.heard_s > GONE_S:
                del self._note_by_replica[replica]
                continue
            if replica.application != application:
                continue
            until_s = note.heard_s if note.problem else now_s
            start = ReplicaStart(
                replica_id=replica.replica_id,
                phase=note.phase,
                share=note.share,
                phase_s=until_s - note.begun_s,
                silent_s=0.0 if note.problem else now_s - note.heard_s,
                problem=note.problem,
            )
            starts[replica.deployment] = (*starts.get(replica.deployment, ()), start)
        return starts

    def _forget_others(
        self, replica: ReplicaName, *, first_s: float, until_s: float, with_failed: bool = False
    ) -> None:
        """Forget the deployment's other replicas that were last heard before ``until_s``: this one is in their place.

        A failure is forgotten for one that began after it alone, and not at once: when Serve gives up, it may have
        begun another try, and the failure is what it gives up for.
        """
        for other, note in list(self._note_by_replica.items()):
            is_same = (other.application, other.deployment) == (replica.application, replica.deployment)
            is_old = note.heard_s < until_s
            is_over = note.heard_s < first_s and (is_old or with_failed) if note.problem else is_old
            if is_same and other != replica and is_over:
                del self._note_by_replica[other]
