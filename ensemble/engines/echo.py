"""An engine without a model: it repeats the prompt, and scores choices by a hash."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import random
import re
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.engine import EngineStats
from ensemble.engines.stop_text import StopText
from ensemble.errors import MemberBusyError, MemberError, MemberRefusedError
from ensemble.generation import (
    ChoiceScores,
    CompletionChunk,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationParameters,
    GenerationRequest,
    ScoringRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from ensemble.engines.config import EchoEngineConfig

# Choices' hashes are spread over this many nats, so that first choices are clear but not certain.
_SCORE_SPREAD = 4.0
_EMBEDDING_SIZE = 32


class EchoEngine:
    """Answers from the prompt, a word a token. See Engine for the contract."""

    def __init__(self, config: EchoEngineConfig, *, member: str, **_: object) -> None:
        """Prepare; without a model there is nothing else to know."""
        self._config = config
        self._member = member
        self._stats = EngineStats()
        self._stopped = asyncio.Event()

    async def start(self, on_phase: OnPhase = ignore_phase) -> None:
        """Nothing to load."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[CompletionChunk]:
        """Repeat the prompt, word by word."""
        if request.parameters.max_tokens < 1:
            raise MemberRefusedError(self._member, f"max_tokens is {request.parameters.max_tokens}; ask for 1 or more")
        words = _split_words(request.prompt)
        completion = _EchoedCompletion(words, request.parameters, has_logprob=request.needs_logprob)
        with self._request_running(completion):
            await self._pause(self._config.delay_s)
            self._add(prompt_tokens=len(words))
            while True:
                chunk = completion.take_word()
                self._add(
                    completion_tokens=chunk.completion_tokens - completion.tokens_counted, steps=1, batched_requests=1
                )
                completion.tokens_counted = chunk.completion_tokens
                completion.is_finished = chunk.finish_reason is not None
                if completion.is_finished:
                    break
                if chunk.text:
                    yield chunk
                await self._pause(self._config.token_delay_s)
        yield chunk

    async def score(self, request: ScoringRequest) -> ChoiceScores:
        """Score by a hash of the seed, the prompt and the choice; the probabilities sum to 1."""
        if not request.choices or not all(choice.strip() for choice in request.choices):
            raise MemberRefusedError(self._member, "a choice has no tokens, or there are no choices")
        num_prompt_tokens = len(_split_words(request.prompt))
        completion = _EchoedCompletion([], GenerationParameters())
        with self._request_running(completion):
            await self._pause(self._config.delay_s)
            self._add(prompt_tokens=num_prompt_tokens, steps=1, batched_requests=1)
            completion.is_finished = True
        return ChoiceScores(
            logprobs=_score_by_hash(self._config.seed, request),
            num_tokens=tuple(len(_split_words(choice)) for choice in request.choices),
            prompt_tokens=num_prompt_tokens,
        )

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Draw a vector from a hash of each text: equal texts have equal vectors, others are unrelated."""
        if not request.texts or not all(text.strip() for text in request.texts):
            raise MemberRefusedError(self._member, "a text to embed is empty, or there are no texts")
        num_prompt_tokens = sum(len(_split_words(text)) for text in request.texts)
        completion = _EchoedCompletion([], GenerationParameters())
        with self._request_running(completion):
            await self._pause(self._config.delay_s)
            self._add(prompt_tokens=num_prompt_tokens, steps=1, batched_requests=1)
            completion.is_finished = True
        return Embeddings(
            vectors=tuple(_embed_by_hash(self._config.seed, text) for text in request.texts),
            prompt_tokens=num_prompt_tokens,
        )

    def stats(self) -> EngineStats:
        """Give the counters, a word counted as a token and as a step."""
        return self._stats

    async def check_health(self) -> None:
        """Say whether the engine is open."""
        if self._stopped.is_set():
            raise MemberError(self._member, "the engine is closed")

    async def close(self) -> None:
        """Fail what is running."""
        self._stopped.set()

    @contextmanager
    def _request_running(self, completion: _EchoedCompletion) -> Iterator[None]:
        self._refuse()
        running = self._stats.running_requests + 1
        self._add(running_requests=1, started_requests=1)
        self._stats = replace(self._stats, max_batch=max(self._stats.max_batch, running))
        try:
            yield
        finally:
            self._add(running_requests=-1)
            if completion.is_finished:
                self._add(finished_requests=1)
            else:
                self._add(aborted_requests=1, aborted_tokens=completion.tokens_counted)

    def _refuse(self) -> None:
        if self._config.fail == "exit":
            os._exit(1)
        if self._config.fail == "error":
            raise MemberError(self._member, "the echo engine was configured to fail")
        if self._stopped.is_set():
            raise MemberError(self._member, "the engine is closed")
        if self._stats.running_requests >= self._config.max_waiting:
            raise MemberBusyError(
                self._member, f"{self._config.max_waiting} requests are under way, which is the limit"
            )

    async def _pause(self, delay_s: float) -> None:
        if delay_s > 0:
            try:
                await asyncio.wait_for(self._stopped.wait(), delay_s)
            except TimeoutError:
                return
        else:
            await asyncio.sleep(0)  # Lets the other requests have their turn, as a batch would.
        if self._stopped.is_set():
            raise MemberError(self._member, "the engine was closed while the request ran")

    def _add(self, **counts: int) -> None:
        self._stats = replace(self._stats, **{name: getattr(self._stats, name) + n for name, n in counts.items()})


class _EchoedCompletion:
    """One request's words, given out one by one."""

    def __init__(self, words: list[str], parameters: GenerationParameters, *, has_logprob: bool = True) -> None:
        self._words = words
        self._has_logprob = has_logprob
        self._num_words = min(len(words), parameters.max_tokens)
        self._num_prompt_tokens = len(words)
        self._stop = StopText(parameters.stop)
        self._num_taken = 0
        self.tokens_counted = 0
        self.is_finished = False

    def take_word(self) -> CompletionChunk:
        """Give the next chunk; its text is empty while it could be the beginning of a stop string."""
        text = ""
        if self._num_taken < self._num_words:
            text = self._stop.push(self._words[self._num_taken])
            self._num_taken += 1
        reason = self._finish_reason()
        if reason is not None and not self._stop.is_met:
            text += self._stop.flush()
        return CompletionChunk(
            text=text,
            completion_tokens=self._num_taken,
            prompt_tokens=self._num_prompt_tokens,
            # Each word is as likely as one of two.
            logprob=-math.log(2.0) * self._num_taken if self._has_logprob else None,
            finish_reason=reason,
        )

    def _finish_reason(self) -> FinishReason | None:
        if self._stop.is_met:
            return FinishReason.STOP
        if self._num_taken < self._num_words:
            return None
        return FinishReason.STOP if self._num_words == len(self._words) else FinishReason.LENGTH


def _split_words(text: str) -> list[str]:
    """Cut a text into words, each with the white space before it; joined, they are the text less its tail's spaces."""
    return re.findall(r"\s*\S+", text)


def _score_by_hash(seed: int, request: ScoringRequest) -> tuple[float, ...]:
    scores = [_SCORE_SPREAD * _hash_share(f"{seed}\0{request.prompt}\0{choice}") for choice in request.choices]
    log_total = math.log(sum(math.exp(score) for score in scores))
    return tuple(score - log_total for score in scores)


def _hash_share(text: str) -> float:
    """Map a text to [0, 1), the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48


def _embed_by_hash(seed: int, text: str) -> tuple[float, ...]:
    """Draw a direction at random, the same in every process."""
    draw = random.Random(f"{seed}\0{text}")  # noqa: S311 - a stand-in for a model, not a secret
    values = [draw.gauss() for _ in range(_EMBEDDING_SIZE)]
    norm = math.hypot(*values)
    return tuple(value / norm for value in values)
