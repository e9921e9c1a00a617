"""The contract of an engine: code that runs one checkpoint in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ensemble.checkpoints.progress import OnPhase, ignore_phase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ensemble.generation import (
        ChoiceScores,
        CompletionChunk,
        EmbeddingRequest,
        Embeddings,
        GenerationRequest,
        ScoringRequest,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """An engine's own counters, all since it started, except ``running``, ``waiting`` and ``cache_share``.

    The mean wait is ``queue_s / started_requests``, the mean batch ``batched_requests / steps``; warming up counts
    nowhere. An engine leaves at 0 what it does not know. ``max_steps_to_abort`` is the largest number of decoding steps
    that any aborted request still took part in after its abort was asked for: 0 or 1 in a sound engine.
    """

    running_requests: int = 0
    waiting_requests: int = 0
    started_requests: int = 0
    """Requests that got a place."""
    finished_requests: int = 0
    aborted_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    aborted_tokens: int = 0
    """Completion tokens of requests that were aborted: generated for nobody."""
    queue_s: float = 0.0
    """Time that the started requests had waited for their place, summed up."""
    cached_prompt_tokens: int = 0
    """Prompt tokens that were not read again, because their keys and values were kept from another request."""
    cache_share: float = 0.0
    """Share of the cache's bound that is taken now, in [0, 1]."""
    steps: int = 0
    """Forward passes."""
    batched_requests: int = 0
    """Requests that each forward pass served, summed up over the passes."""
    max_batch: int = 0
    """The most requests that one forward pass has served."""
    max_steps_to_abort: int = 0


class Engine(Protocol):
    """Runs one checkpoint. All methods are called from one event loop, many at a time; requests are batched.

    Abort: closing the iterator of ``generate``, or cancelling the task that awaits it or ``score``, takes the request
    out of the engine before its next decoding step but one.
    """

    async def start(self, on_phase: OnPhase = ignore_phase) -> None:
        """Load the checkpoint and generate once, so that the first request is neither slow nor the first to fail.

        A classifier reads a text instead. ``on_phase`` is told what the start is at, from any thread.

        Raises:
            CheckpointError: it is missing, cut short or unsupported.
            ConfigError: the machine lacks what the config asks for (a GPU, say).
        """
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[CompletionChunk]:
        """Stream a completion; the last chunk alone has a finish reason.

        Raises:
            MemberBusyError: the waiting queue is full.
            MemberRefusedError: the prompt does not fit the context.
        """
        ...

    async def score(self, request: ScoringRequest) -> ChoiceScores:
        """Give the choices' scores by the member's scoring rule, by default their log-probabilities' mean per token.

        The prompt is read once for all choices.

        Raises:
            MemberBusyError: the waiting queue is full.
            MemberRefusedError: the prompt with its longest choice does not fit the context.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Give the mean of the last layer's hidden states over each text's tokens, normalised.

        Raises:
            MemberBusyError: the waiting queue is full.
            MemberRefusedError: a text has no tokens or does not fit the context, or this engine has no embeddings.
        """
        ...

    def stats(self) -> EngineStats:
        """Read the counters; cheap, from any thread."""
        ...

    async def check_health(self) -> None:
        """Return when the engine can serve.

        Raises:
            MemberError: it cannot, and will not without a restart.
        """
        ...

    async def close(self) -> None:
        """Abort what is running and free the memory; idempotent."""
        ...
