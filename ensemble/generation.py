"""What is asked of a model and what it gives back, in the words of OpenAI and vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    """The model ended it, or a stop string was met."""
    LENGTH = "length"
    """``max_tokens`` or the context was used up."""
    ABORT = "abort"
    """Nobody wanted it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """How a completion is drawn.

    ``temperature`` 0 is greedy. ``top_p`` lies in (0, 1]. ``seed`` None draws a new one. A completion ends before
    the first of ``stop`` that its text contains; the stop string itself is not part of the completion.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt for one engine.

    One that is not streamed may get all its text in one piece. Where ``needs_logprob`` is not set, nobody reads the
    completion's log-probability, and an engine that saves work without it may leave it out.
    """

    request_id: str
    prompt: str
    parameters: GenerationParameters = field(default_factory=GenerationParameters)
    is_streamed: bool = True
    needs_logprob: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """One prompt and the choices whose scores are wanted, in the caller's order."""

    request_id: str
    prompt: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionChunk:
    """A piece of a completion, in order.

    The last piece alone has a ``finish_reason``. ``completion_tokens`` counts from the start of the completion.
    ``logprob`` is the sum of the log-probabilities (natural logarithm) of the tokens so far; None where it was left
    out, as the request allowed.
    """

    text: str
    completion_tokens: int
    prompt_tokens: int
    logprob: float | None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole completion; ``logprob`` is the sum over its tokens (natural logarithm), or None, as in its chunks."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    logprob: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceScores:
    """Scores of the choices of one scoring request, in the caller's order.

    ``logprobs`` are what the member's scoring rule makes of the choices' log-probabilities (natural logarithm): the
    mean per token by default, so that long choices are not punished for being long; else their sum, or with ``pmi``
    what the prompt adds to it, which may be above 0. A classifier's are the log-softmax over the asked labels.
    ``num_tokens`` are the choices' numbers of tokens, whatever the rule.
    """

    logprobs: tuple[float, ...]
    num_tokens: tuple[int, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts whose embeddings are wanted."""

    request_id: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """One vector a text, in the caller's order, all of one length and of Euclidean norm 1."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
