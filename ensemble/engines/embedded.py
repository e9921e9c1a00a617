"""The engine on torch and transformers in this process, with continuous batching."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

from ensemble.checkpoints import DEFAULT_CACHE_DIR
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.batch_loop import BatchLoop, LoadedModel
from ensemble.engines.engine_thread import Counters, Deliveries, EngineThread
from ensemble.engines.inbox import Inbox
from ensemble.engines.jobs import EmbeddingJob, GenerationJob, ScoringJob
from ensemble.engines.model_loading import load_model
from ensemble.errors import MemberError
from ensemble.generation import (
    ChoiceScores,
    CompletionChunk,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    ScoringRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from ensemble.engines.config import EmbeddedEngineConfig, FusedEngineConfig
    from ensemble.engines.engine import EngineStats
    from ensemble.engines.prompt_format import PromptFormat


class EmbeddedEngine:
    """Hands requests to a thread that owns the model. See Engine for the contract.

    Inside are at most ``max_batch`` running and ``max_waiting`` waiting requests; a completion that nobody reads
    holds at most a chunk for each of its tokens.
    """

    _load: ClassVar[Callable[..., LoadedModel]] = staticmethod(load_model)
    """Makes what the thread runs from a config; other engines on the same loop have their own."""

    def __init__(
        self,
        config: EmbeddedEngineConfig | FusedEngineConfig,
        *,
        checkpoint: str,
        member: str,
        prompt_format: PromptFormat,
        cache_dir: Path = DEFAULT_CACHE_DIR,
    ) -> None:
        """Prepare; GGUF files and packages are converted into ``cache_dir`` once."""
        self._inbox = Inbox(member=member, max_jobs=config.max_batch + config.max_waiting)
        counters = Counters()
        load = partial(
            self._load,
            config,
            checkpoint=checkpoint,
            member=member,
            prompt_format=prompt_format,
            cache_dir=cache_dir,
        )

        def load_loop(deliver: Callable[[Deliveries], None], on_phase: OnPhase) -> BatchLoop:
            loop = BatchLoop(model=load(on_phase=on_phase), inbox=self._inbox, deliver=deliver, counters=counters)
            loop.allocate()
            return loop

        self._thread = EngineThread(member=member, inbox=self._inbox, load=load_loop, counters=counters)

    async def start(self, on_phase: OnPhase = ignore_phase) -> None:
        """Load the model in the thread; starting twice is starting once."""
        await self._thread.start(on_phase)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[CompletionChunk]:
        """Hand the request over and pass its chunks on; whoever stops reading aborts it."""
        self._thread.check_started()
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
        return cast("ChoiceScores", await self._thread.answer(ScoringJob(request=request)))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Hand the texts over and await their vectors; whoever stops waiting aborts it."""
        return cast("Embeddings", await self._thread.answer(EmbeddingJob(request=request)))

    def stats(self) -> EngineStats:
        """Read what the thread has counted."""
        return self._thread.stats()

    async def check_health(self) -> None:
        """Say whether the thread serves."""
        self._thread.check_health()

    async def close(self) -> None:
        """Fail what is inside, after the forward pass that runs now, and end the thread."""
        await self._thread.close()
