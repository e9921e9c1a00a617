"""The bounded handover of requests from the event loop to the engine's thread."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from ensemble.engines.jobs import GenerationJob, Job, ReadingJob
from ensemble.errors import MemberBusyError, MemberError

if TYPE_CHECKING:
    from collections.abc import Callable


class Inbox:
    """Waiting requests, in order of arrival; counts all that have entered and not yet left the engine."""

    def __init__(self, *, member: str, max_jobs: int) -> None:
        self._member = member
        self._max_jobs = max_jobs
        self._changed = threading.Condition()
        self._generations: deque[GenerationJob] = deque()
        self._readings: deque[ReadingJob] = deque()
        self._num_jobs = 0
        self._closed_because: str | None = None
        self._has_aborts = False

    @property
    def num_jobs(self) -> int:
        """Requests inside the engine, waiting or running."""
        return self._num_jobs

    @property
    def closed_because(self) -> str | None:
        """Why no request is taken any more; None while the engine serves."""
        return self._closed_because

    def put(self, job: GenerationJob | ReadingJob) -> None:
        """Hand a request over.

        Raises:
            MemberBusyError: as many requests are inside as are allowed.
            MemberError: the engine has ended.
        """
        with self._changed:
            if self._closed_because is not None:
                raise MemberError(self._member, self._closed_because)
            if self._num_jobs >= self._max_jobs:
                raise MemberBusyError(self._member, f"{self._num_jobs} requests are under way, which is the limit")
            self._num_jobs += 1
            if isinstance(job, GenerationJob):
                self._generations.append(job)
            else:
                self._readings.append(job)
            self._changed.notify()

    def abort(self, job: Job) -> None:
        """Ask the engine's thread to drop a request before its next forward pass."""
        with self._changed:
            job.is_aborted = self._has_aborts = True
            self._changed.notify()

    def close(self, reason: str) -> None:
        """Take no more requests and wake the engine's thread; the first reason stays."""
        with self._changed:
            if self._closed_because is None:
                self._closed_because = reason
            self._changed.notify()

    def wait_for_work(self, is_busy: Callable[[], bool]) -> bool:
        """Block the engine's thread until there is something to do; False when it has to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed_because is not None or is_busy() or self._generations or self._readings
            )
            return self._closed_because is None

    def take_generations(self, limit: int) -> list[GenerationJob]:
        """Take the completions that have waited longest, at most ``limit``."""
        with self._changed:
            return [self._generations.popleft() for _ in range(min(limit, len(self._generations)))]

    def take_readings(self, limit: int) -> list[ReadingJob]:
        """Take the scorings and embeddings that have waited longest, at most ``limit``."""
        with self._changed:
            return [self._readings.popleft() for _ in range(min(limit, len(self._readings)))]

    def take_aborted(self) -> list[Job] | None:
        """Take the aborted out of the waiting; None when nothing was aborted since the last call."""
        with self._changed:
            if not self._has_aborts:
                return None
            self._has_aborts = False
            waiting: list[Job] = [*self._generations, *self._readings]
            self._generations = deque(job for job in self._generations if not job.is_aborted)
            self._readings = deque(job for job in self._readings if not job.is_aborted)
            return [job for job in waiting if job.is_aborted]

    def drain(self) -> list[Job]:
        """Take everything that waits."""
        with self._changed:
            waiting: list[Job] = [*self._generations, *self._readings]
            self._generations.clear()
            self._readings.clear()
            return waiting

    def leave(self) -> None:
        """Count a request out."""
        with self._changed:
            self._num_jobs -= 1
