"""The engine for text classifiers: requests that wait together are read in one forward pass."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from ensemble.checkpoints import DEFAULT_CACHE_DIR
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.classifier_loading import load_classifier
from ensemble.engines.classifier_loop import ClassifierLoop
from ensemble.engines.engine_thread import Counters, Deliveries, EngineThread
from ensemble.engines.inbox import Inbox
from ensemble.engines.jobs import ScoringJob
from ensemble.errors import MemberRefusedError
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

    from ensemble.engines.config import ClassifierEngineConfig
    from ensemble.engines.engine import EngineStats
    from ensemble.engines.prompt_format import PromptFormat


class ClassifierEngine:
    """Votes among the labels of a sequence classifier. See Engine for the contract.

    A request's choices are some of the labels, by their normalised names; the scores are the log-softmax over these
    labels alone, and a choice counts as one token. Completions and embeddings are refused.
    """

    def __init__(
        self,
        config: ClassifierEngineConfig,
        *,
        checkpoint: str,
        member: str,
        prompt_format: PromptFormat,
        cache_dir: Path = DEFAULT_CACHE_DIR,
    ) -> None:
        """Prepare; ``start`` loads the checkpoint."""
        self._member = member
        inbox = Inbox(member=member, max_jobs=config.max_batch + config.max_waiting)
        counters = Counters()

        load = partial(
            load_classifier,
            config,
            checkpoint=checkpoint,
            member=member,
            prompt_format=prompt_format,
            cache_dir=cache_dir,
        )

        def load_loop(deliver: Callable[[Deliveries], None], on_phase: OnPhase) -> ClassifierLoop:
            model = load(on_phase=on_phase)
            return ClassifierLoop(model=model, inbox=inbox, deliver=deliver, counters=counters)

        self._thread = EngineThread(member=member, inbox=inbox, load=load_loop, counters=counters)

    async def start(self, on_phase: OnPhase = ignore_phase) -> None:
        """Load the model in the thread; starting twice is starting once."""
        await self._thread.start(on_phase)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[CompletionChunk]:
        """Refuse: there is nothing that writes."""
        self._thread.check_health()
        raise MemberRefusedError(self._member, "a classifier writes no text; ask it to choose among its labels")
        yield  # Makes this a generator, as the contract says.

    async def score(self, request: ScoringRequest) -> ChoiceScores:
        """Hand the request over and await its scores; whoever stops waiting aborts it."""
        return cast("ChoiceScores", await self._thread.answer(ScoringJob(request=request)))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Refuse: what a classifier pools for its labels says little about anything else."""
        self._thread.check_health()
        raise MemberRefusedError(self._member, "a classifier gives no embeddings; name another member for them")

    def stats(self) -> EngineStats:
        """Read what the thread has counted."""
        return self._thread.stats()

    async def check_health(self) -> None:
        """Say whether the thread serves."""
        self._thread.check_health()

    async def close(self) -> None:
        """Fail what is inside, after the forward pass that runs now, and end the thread."""
        await self._thread.close()
