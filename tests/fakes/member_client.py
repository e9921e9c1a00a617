"""A member that says what it was told to say, when it is told to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from ensemble.engines.engine import EngineStats
from ensemble.generation import (
    ChoiceScores,
    Completion,
    CompletionChunk,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationRequest,
    ScoringRequest,
)
from ensemble.router.ports import ReplicaReport

LOGPROB_PER_TOKEN = -0.5


def open_gate() -> asyncio.Event:
    """Make a gate that holds nobody up."""
    gate = asyncio.Event()
    gate.set()
    return gate


@dataclass(slots=True, kw_only=True)
class FakeMemberClient:
    """A MemberClient with a script.

    It gives ``probabilities`` (one a choice, or ``probability_by_choice`` whatever the order), ``text`` or ``vectors``
    (one a text), or raises ``error``, once its ``gate`` is open. A stream sends ``text`` word by word; the gate stands
    before the last word. A text has a log-probability only where it is needed.
    """

    probabilities: tuple[float, ...] = ()
    probability_by_choice: Mapping[str, float] = field(default_factory=dict)
    vectors: tuple[tuple[float, ...], ...] = ()
    text: str = ""
    finish_reason: FinishReason = FinishReason.STOP
    error: Exception | None = None
    gate: asyncio.Event = field(default_factory=open_gate)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    scorings: list[ScoringRequest] = field(default_factory=list)
    generations: list[GenerationRequest] = field(default_factory=list)
    embeddings: list[EmbeddingRequest] = field(default_factory=list)
    timeouts_s: list[float] = field(default_factory=list)
    num_under_way: int = 0
    num_cancelled: int = 0
    num_answered: int = 0

    async def score(self, request: ScoringRequest, *, timeout_s: float) -> ChoiceScores:
        """Give the logarithms of the scripted probabilities."""
        self.scorings.append(request)
        with self._call(timeout_s):
            await self._pass_gate()
            known = self.probability_by_choice
            probabilities = tuple(known[choice] for choice in request.choices) if known else self.probabilities
            return ChoiceScores(
                logprobs=tuple(map(math.log, probabilities)),
                num_tokens=(1,) * len(probabilities),
                prompt_tokens=len(request.prompt.split()),
            )

    async def complete(self, request: GenerationRequest, *, timeout_s: float) -> Completion:
        """Give the scripted text."""
        self.generations.append(request)
        with self._call(timeout_s):
            await self._pass_gate()
            num_tokens = len(self.text.split())
            return Completion(
                text=self.text,
                finish_reason=self.finish_reason,
                prompt_tokens=len(request.prompt.split()),
                completion_tokens=num_tokens,
                logprob=LOGPROB_PER_TOKEN * num_tokens if request.needs_logprob else None,
            )

    async def stream(self, request: GenerationRequest, *, timeout_s: float) -> AsyncGenerator[CompletionChunk]:
        """Give the scripted text word by word."""
        self.generations.append(request)
        with self._call(timeout_s):
            words = self.text.split(" ")
            for num_tokens, word in enumerate(words, start=1):
                is_last = num_tokens == len(words)
                if is_last:
                    await self._pass_gate()
                yield CompletionChunk(
                    text=word if is_last else f"{word} ",
                    completion_tokens=num_tokens,
                    prompt_tokens=len(request.prompt.split()),
                    logprob=LOGPROB_PER_TOKEN * num_tokens if request.needs_logprob else None,
                    finish_reason=self.finish_reason if is_last else None,
                )

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> Embeddings:
        """Give the scripted vectors."""
        self.embeddings.append(request)
        with self._call(timeout_s):
            await self._pass_gate()
            num_tokens = sum(len(text.split()) for text in request.texts)
            return Embeddings(vectors=self.vectors, prompt_tokens=num_tokens)

    async def reports(self, *, timeout_s: float) -> tuple[ReplicaReport, ...]:
        """Report one replica that has answered what this fake has, or raise the error."""
        self.timeouts_s.append(timeout_s)
        if self.error is not None:
            raise self.error
        stats = EngineStats(finished_requests=self.num_answered, aborted_requests=self.num_cancelled)
        return (ReplicaReport(replica_id="fake", stats=stats),)

    async def _pass_gate(self) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    @contextmanager
    def _call(self, timeout_s: float) -> Iterator[None]:
        self.timeouts_s.append(timeout_s)
        self.num_under_way += 1
        self.asked.set()
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.num_cancelled += 1
            raise
        else:
            self.num_answered += 1
        finally:
            self.num_under_way -= 1
            self.left.set()
