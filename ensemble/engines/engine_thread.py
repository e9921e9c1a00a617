"""The thread that owns a model, and how the event loop talks with it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.engine import EngineStats
from ensemble.errors import MemberError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ensemble.engines.inbox import Inbox
    from ensemble.engines.jobs import Job, Outcome, ReadingJob

_log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 30.0
"""How long closing waits for the engine's thread, which cannot be interrupted inside a forward pass or a load.

A pass takes seconds at most; a thread that is still there ends by itself later, or with the process, as a daemon."""

Deliveries = list[tuple["Job", "Outcome"]]


@dataclass(slots=True, kw_only=True)
class Counters:
    """What the engine's thread counts; the names are those of EngineStats."""

    running_requests: int = 0
    started_requests: int = 0
    finished_requests: int = 0
    aborted_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    aborted_tokens: int = 0
    queue_s: float = 0.0
    cached_prompt_tokens: int = 0
    cache_share: float = 0.0
    steps: int = 0
    batched_requests: int = 0
    max_batch: int = 0
    max_steps_to_abort: int = 0

    def count_in(self, job: Job, *, waited_s: float | None = None) -> None:
        """Count a request that got its place, now or, where that was earlier, after ``waited_s``."""
        job.is_running = True
        self.running_requests += 1
        self.started_requests += 1
        self.queue_s += time.monotonic() - job.entered_s if waited_s is None else waited_s

    def count_pass(self, num_requests: int) -> None:
        """Count a forward pass and the requests that it served."""
        self.steps += 1
        self.batched_requests += num_requests
        self.max_batch = max(self.max_batch, num_requests)


class Loop(Protocol):
    """What the thread does once the model is loaded."""

    def run(self) -> None:
        """Serve until the inbox is closed."""
        ...


@dataclass(slots=True, kw_only=True)
class EngineThread:
    """Runs a loop that ``load`` builds; requests go in through the inbox, outcomes come back to the event loop.

    ``load`` is called in the thread, with what the loop has to call, from the thread, to deliver outcomes, and with
    what has to be told where loading is.
    """

    member: str
    inbox: Inbox
    load: Callable[[Callable[[Deliveries], None], OnPhase], Loop]
    counters: Counters = field(default_factory=Counters)
    _thread: threading.Thread | None = None
    _ready: asyncio.Future[None] | None = None

    async def start(self, on_phase: OnPhase = ignore_phase) -> None:
        """Start the thread and wait until it has loaded the model; starting twice is starting once."""
        if self._ready is not None:
            await asyncio.shield(self._ready)
            self.check_health()
            return
        event_loop = asyncio.get_running_loop()
        self._ready = event_loop.create_future()
        # A daemon, so that a process that forgets to close the engine can still end.
        self._thread = threading.Thread(
            target=self._serve, args=(event_loop, self._ready, on_phase), name=f"engine-{self.member}", daemon=True
        )
        self._thread.start()
        try:
            # Shielded, because a second start may await it too.
            await asyncio.shield(self._ready)
        except BaseException:
            await self.close()
            raise

    async def answer(self, job: ReadingJob) -> Outcome:
        """Hand a request over and await its one outcome; whoever stops waiting aborts it."""
        self.check_started()
        self.inbox.put(job)
        try:
            outcome = await job.outcomes.get()
        except asyncio.CancelledError:
            self.inbox.abort(job)
            raise
        if isinstance(outcome, MemberError):
            raise outcome
        return outcome

    def stats(self) -> EngineStats:
        """Read what the thread has counted."""
        running = self.counters.running_requests
        return EngineStats(**asdict(self.counters), waiting_requests=max(0, self.inbox.num_jobs - running))

    def check_started(self) -> None:
        """Refuse requests before the start."""
        if self._thread is None:
            raise MemberError(self.member, "the engine was not started")

    def check_health(self) -> None:
        """Say whether the thread serves."""
        self.check_started()
        if self.inbox.closed_because is not None:
            raise MemberError(self.member, self.inbox.closed_because)

    async def close(self) -> None:
        """Fail what is inside, after the forward pass that runs now, and end the thread; see CLOSE_TIMEOUT_S."""
        self.inbox.close("the engine was closed")
        if self._thread is None:
            return
        await asyncio.to_thread(self._thread.join, CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            _log.warning("member %s: the engine's thread still runs %g s after close", self.member, CLOSE_TIMEOUT_S)

    def _serve(self, event_loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None], on_phase: OnPhase) -> None:
        """Load the model, then run it until the engine is closed; the body of the thread."""

        def deliver(deliveries: Deliveries) -> None:
            try:
                event_loop.call_soon_threadsafe(_hand_out, deliveries)
            except RuntimeError:  # The event loop is closed, so nobody awaits anything.
                self.inbox.close("its event loop has ended")

        try:
            loop = self.load(deliver, on_phase)
        except Exception as error:  # noqa: BLE001 the border of the thread: start raises it
            with suppress(RuntimeError):
                event_loop.call_soon_threadsafe(_settle, ready, error)
            return
        with suppress(RuntimeError):
            event_loop.call_soon_threadsafe(_settle, ready, None)
        loop.run()


def _settle(ready: asyncio.Future[None], error: Exception | None) -> None:
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error)
        # Marks it as seen: when ``start`` was cancelled, nobody awaits it.
        ready.exception()


def _hand_out(deliveries: Deliveries) -> None:
    for job, outcome in deliveries:
        job.outcomes.put_nowait(outcome)
