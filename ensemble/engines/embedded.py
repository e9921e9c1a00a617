"""The engine on torch and transformers in this process, with continuous batching."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from ensemble.checkpoints import DEFAULT_CACHE_DIR
from ensemble.engines.batch_loop import BatchLoop, Counters, Deliveries
from ensemble.engines.engine import EngineStats
from ensemble.engines.inbox import Inbox
from ensemble.engines.jobs import GenerationJob, ScoringJob
from ensemble.engines.model_loading import load_model
from ensemble.errors import MemberError
from ensemble.generation import ChoiceScores, CompletionChunk, GenerationRequest, ScoringRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from ensemble.engines.config import EmbeddedEngineConfig
    from ensemble.engines.prompt_format import PromptFormat

_log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 30.0
"""How long closing waits for the engine's thread, which cannot be interrupted inside a forward pass or a load.

A pass takes seconds at most; a thread that is still there ends by itself later, or with the process, as a daemon."""


class EmbeddedEngine:
    """Hands requests to a thread that owns the model. See Engine for the contract.

    Inside are at most ``max_batch`` running and ``max_waiting`` waiting requests; a completion that nobody reads
    holds at most a chunk for each of its tokens.
    """

    def __init__(
        self,
        config: EmbeddedEngineConfig,
        *,
        checkpoint: str,
        member: str,
        prompt_format: PromptFormat,
        cache_dir: Path = DEFAULT_CACHE_DIR,
    ) -> None:
        """Prepare; GGUF files and packages are converted into ``cache_dir`` once."""
        self._config = config
        self._cache_dir = cache_dir
        self._checkpoint = checkpoint
        self._member = member
        self._prompt_format = prompt_format
        self._inbox = Inbox(member=member, max_jobs=config.max_batch + config.max_waiting)
        self._counters = Counters()
        self._thread: threading.Thread | None = None
        self._ready: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start the thread and wait until it has loaded the model; starting twice is starting once."""
        if self._ready is not None:
            await asyncio.shield(self._ready)
            await self.check_health()
            return
        event_loop = asyncio.get_running_loop()
        self._ready = event_loop.create_future()
        # A daemon, so that a process that forgets to close the engine can still end.
        self._thread = threading.Thread(
            target=self._serve, args=(event_loop, self._ready), name=f"engine-{self._member}", daemon=True
        )
        self._thread.start()
        try:
            # Shielded, because a second start may await it too.
            await asyncio.shield(self._ready)
        except BaseException:
            await self.close()
            raise

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[CompletionChunk]:
        """Hand the request over and pass its chunks on; whoever stops reading aborts it."""
        self._check_started()
        job = GenerationJob(request=request)
        self._inbox.put(job)
        is_over = False
        try:
            while not is_over:
                # A job gets what it asked for, or an error.
                outcome = cast("CompletionChunk | MemberError", await job.outcomes.get())
                is_over = isinstance(outcome, MemberError) or outcome.finish_reason is not None
                if isinstance(outcome, MemberError):
                    raise outcome
                yield outcome
        finally:
            if not is_over:
                self._inbox.abort(job)

    async def score(self, request: ScoringRequest) -> ChoiceScores:
        """Hand the request over and await its scores; whoever stops waiting aborts it."""
        self._check_started()
        job = ScoringJob(request=request)
        self._inbox.put(job)
        try:
            outcome = cast("ChoiceScores | MemberError", await job.outcomes.get())
        except asyncio.CancelledError:
            self._inbox.abort(job)
            raise
        if isinstance(outcome, MemberError):
            raise outcome
        return outcome

    def stats(self) -> EngineStats:
        """Read what the thread has counted."""
        counters = self._counters
        running = counters.running_requests
        return EngineStats(
            running_requests=running,
            waiting_requests=max(0, self._inbox.num_jobs - running),
            finished_requests=counters.finished_requests,
            aborted_requests=counters.aborted_requests,
            prompt_tokens=counters.prompt_tokens,
            completion_tokens=counters.completion_tokens,
            aborted_tokens=counters.aborted_tokens,
            steps=counters.steps,
            max_batch=counters.max_batch,
            max_steps_to_abort=counters.max_steps_to_abort,
        )

    async def check_health(self) -> None:
        """Say whether the thread serves."""
        self._check_started()
        if self._inbox.closed_because is not None:
            raise MemberError(self._member, self._inbox.closed_because)

    async def close(self) -> None:
        """Fail what is inside, after the forward pass that runs now, and end the thread; see CLOSE_TIMEOUT_S."""
        self._inbox.close("the engine was closed")
        if self._thread is None:
            return
        await asyncio.to_thread(self._thread.join, CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            _log.warning("member %s: the engine's thread still runs %g s after close", self._member, CLOSE_TIMEOUT_S)

    def _check_started(self) -> None:
        if self._thread is None:
            raise MemberError(self._member, "the engine was not started")

    def _serve(self, event_loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None]) -> None:
        """Load the model, then run it until the engine is closed; the body of the thread."""

        def deliver(deliveries: Deliveries) -> None:
            try:
                event_loop.call_soon_threadsafe(_hand_out, deliveries)
            except RuntimeError:  # The event loop is closed, so nobody awaits anything.
                self._inbox.close("its event loop has ended")

        try:
            model = load_model(
                self._config,
                checkpoint=self._checkpoint,
                member=self._member,
                prompt_format=self._prompt_format,
                cache_dir=self._cache_dir,
            )
            loop = BatchLoop(model=model, inbox=self._inbox, deliver=deliver, counters=self._counters)
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
