"""Requests inside the embedded engine: their progress, and the way back to whoever awaits them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ensemble.engines.block_pool import CacheRow
from ensemble.engines.detokenizer import Detokenizer, TokenDecoder
from ensemble.engines.sampling import Sampler
from ensemble.engines.stop_text import StopText
from ensemble.errors import MemberError
from ensemble.generation import (
    ChoiceScores,
    CompletionChunk,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationRequest,
    ScoringRequest,
)

Outcome = CompletionChunk | ChoiceScores | Embeddings | MemberError


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request under way.

    ``outcomes`` is touched by the event loop only and holds at most a chunk a token. ``is_aborted`` is set by the
    event loop and read by the engine's thread before and in each forward pass; everything else belongs to that thread.
    """

    outcomes: asyncio.Queue[Outcome] = field(default_factory=asyncio.Queue)
    is_aborted: bool = False
    is_running: bool = False
    entered_s: float = field(default_factory=time.monotonic)
    """When it came, by the monotonic clock."""
    completion_tokens: int = 0
    steps_after_abort: int = 0
    """Forward passes that this request took part in and that ended after its abort was asked for."""
    is_broken: bool = False
    """Whether a pass gave no numbers for it, or failed, so that its cache row may hold NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceTree:
    """A prompt, and choices that continue it, in tokens."""

    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]

    @property
    def num_fed(self) -> int:
        """Tokens to read: a choice's last is only predicted."""
        return len(self.prompt) + self.num_outputs - 1

    @property
    def num_outputs(self) -> int:
        """Tokens whose next-token logits are needed."""
        return 1 + sum(len(choice) - 1 for choice in self.choices)


@dataclass(slots=True, kw_only=True, eq=False)
class ScoringJob(Job):
    """A scoring request, and its tokens once they are known."""

    request: ScoringRequest
    trees: tuple[ChoiceTree, ...] = ()
    """What is read: the choices after the scored prompt, then those whose prior is not known after the pmi prompt."""
    known_priors: Mapping[tuple[int, ...], float] = field(default_factory=dict)

    @property
    def num_fed(self) -> int:
        """Tokens to read."""
        return sum(tree.num_fed for tree in self.trees)

    @property
    def num_outputs(self) -> int:
        """Tokens whose next-token logits are needed."""
        return sum(tree.num_outputs for tree in self.trees)


@dataclass(slots=True, kw_only=True, eq=False)
class EmbeddingJob(Job):
    """Texts to embed, their tokens once they are known, and the vectors so far."""

    request: EmbeddingRequest
    texts: tuple[tuple[int, ...], ...] = ()
    vectors: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.texts))


ReadingJob = ScoringJob | EmbeddingJob
"""A request that is answered by reading alone."""


@dataclass(slots=True, kw_only=True, eq=False)
class GenerationJob(Job):
    """A completion that grows a token at a time."""

    request: GenerationRequest
    prompt: list[int] = field(default_factory=list)
    row: CacheRow = field(default_factory=lambda: CacheRow(blocks=[]))
    """Its place in the cache, once its prompt is being read."""
    last_token: int = 0
    logprob: float = 0.0
    has_logprob: bool = True
    """Whether the log-probabilities of all its tokens have come, and not the tokens alone."""
    is_finished: bool = False
    """Whether its last token has come, or a stop string."""
    sampler: Sampler = field(init=False)
    _max_tokens: int = 0
    _eos_tokens: frozenset[int] = frozenset()
    _detokenizer: Detokenizer = field(init=False)
    _stop: StopText = field(init=False)

    def begin(self, prompt: list[int], *, decoder: TokenDecoder, eos_tokens: frozenset[int], max_context: int) -> None:
        """Give the job its prompt's tokens and what its completion needs."""
        parameters = self.request.parameters
        self.prompt = prompt
        self.sampler = Sampler.from_parameters(parameters)
        self._max_tokens = min(parameters.max_tokens, max_context - len(prompt))
        self._eos_tokens = eos_tokens
        self._detokenizer = Detokenizer(decoder, prompt)
        self._stop = StopText(parameters.stop)

    @property
    def is_read(self) -> bool:
        """Whether the whole prompt is in the cache, so that tokens follow one by one."""
        return self.row.num_tokens >= len(self.prompt)

    @property
    def max_cached(self) -> int:
        """Tokens that may come to be in the cache: the last one that is written is not read any more."""
        return len(self.prompt) + self._max_tokens

    @property
    def num_left(self) -> int:
        """Tokens that may still follow."""
        return self._max_tokens - self.completion_tokens

    def accept(self, token: int, logprob: float) -> CompletionChunk | None:
        """Take the next token; return a chunk when there is text for one, or when this was the last."""
        self.last_token = token
        self.completion_tokens += 1
        self.logprob += logprob
        is_eos = token in self._eos_tokens
        text = "" if is_eos else self._stop.push(self._detokenizer.push(token))
        is_last = is_eos or self._stop.is_met or self.completion_tokens >= self._max_tokens
        self.is_finished = is_last
        if is_last and not self._stop.is_met:
            text += self._stop.push(self._detokenizer.flush())
        if is_last and not self._stop.is_met:
            text += self._stop.flush()
        if not text and not is_last:
            return None
        reason = FinishReason.STOP if is_eos or self._stop.is_met else FinishReason.LENGTH
        return self._chunk(text, reason if is_last else None)

    def accept_all(self, tokens: Sequence[int], logprobs: Sequence[float] | None) -> CompletionChunk | None:
        """Take tokens that came at once, as `accept` takes each, up to the completion's last; one chunk for all.

        Where they came without their log-probabilities, the completion has none.
        """
        text, reason = "", None
        if logprobs is None:
            self.has_logprob, logprobs = False, (0.0,) * len(tokens)
        # The last one may end the completion; those before it end nothing, and take a fraction of the time together.
        before = tokens[: max(0, min(len(tokens), self.num_left) - 1)]
        if before and not self.request.parameters.stop and self._eos_tokens.isdisjoint(before):
            self.completion_tokens += len(before)
            self.logprob = sum(logprobs[: len(before)], start=self.logprob)
            text = self._detokenizer.push_all(before)
            tokens, logprobs = tokens[len(before) :], logprobs[len(before) :]
        for token, logprob in zip(tokens, logprobs, strict=True):
            chunk = self.accept(token, logprob)
            if chunk is not None:
                text, reason = text + chunk.text, chunk.finish_reason
            if self.is_finished:
                break
        return self._chunk(text, reason) if text or self.is_finished else None

    def _chunk(self, text: str, reason: FinishReason | None) -> CompletionChunk:
        return CompletionChunk(
            text=text,
            completion_tokens=self.completion_tokens,
            prompt_tokens=len(self.prompt),
            logprob=self.logprob if self.has_logprob else None,
            finish_reason=reason,
        )
