"""Turns one member's scores or completion into its ballot. Times are of the monotonic clock."""

from __future__ import annotations

import math
import time
from contextlib import aclosing
from typing import Protocol

from ensemble.errors import MemberError
from ensemble.generation import (
    ChoiceScores,
    Completion,
    CompletionChunk,
    FinishReason,
    GenerationRequest,
    ScoringRequest,
)
from ensemble.router.fan_out import Ask, Hear
from ensemble.router.ports import MemberClient
from ensemble.router.request import TextPiece
from ensemble.voting.ballot import Ballot

LEAST_S = 0.001
"""A deadline that has passed already would be refused before anybody is asked."""


def softmax(logits: tuple[float, ...]) -> tuple[float, ...]:
    """Give probabilities in proportion to ``exp`` of finite ``logits``."""
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    total = math.fsum(powers)
    return tuple(power / total for power in powers)


def ballot_from_scores(member: str, request: ScoringRequest, scores: ChoiceScores, *, latency_s: float) -> Ballot:
    """Vote for the likeliest choice; probabilities are the softmax of the member's scores.

    Equal scores go to the choice declared first.

    Raises:
        MemberError: there is not one finite log-probability a choice.
    """
    if len(scores.logprobs) != len(request.choices) or not all(map(math.isfinite, scores.logprobs)):
        raise MemberError(
            member, f"its engine gave no finite log-probability for each of {len(request.choices)} choices"
        )
    best = max(range(len(scores.logprobs)), key=scores.logprobs.__getitem__)
    return Ballot(
        member=member,
        choice=request.choices[best],
        probabilities=softmax(scores.logprobs),
        logprob=scores.logprobs[best],
        latency_s=latency_s,
        prompt_tokens=scores.prompt_tokens,
    )


def ballot_from_completion(member: str, completion: Completion, *, latency_s: float) -> Ballot:
    """Vote with a text; its log-probability, where there is one, is the mean per token.

    Raises:
        MemberError: the completion was aborted, or its log-probability is not a number.
    """
    logprob = completion.logprob
    if completion.finish_reason is FinishReason.ABORT or not (logprob is None or math.isfinite(logprob)):
        raise MemberError(member, "its engine did not finish the completion")
    return Ballot(
        member=member,
        text=completion.text,
        logprob=None if logprob is None else logprob / max(1, completion.completion_tokens),
        latency_s=latency_s,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
    )


def ask_for_choice(member: str, client: MemberClient, request: ScoringRequest, *, until_s: float) -> Ask:
    """Build the call that gets a ballot among given choices."""

    async def ask(_hear: Hear) -> Ballot:
        started_s = time.monotonic()
        scores = await client.score(request, timeout_s=max(LEAST_S, until_s - started_s))
        return ballot_from_scores(member, request, scores, latency_s=time.monotonic() - started_s)

    return ask


class AskForText(Protocol):
    """Builds the call that gets a ballot with a text."""

    def __call__(self, member: str, client: MemberClient, request: GenerationRequest, *, until_s: float) -> Ask:
        """Build it."""
        ...


def ask_for_text(member: str, client: MemberClient, request: GenerationRequest, *, until_s: float) -> Ask:
    """Build the call that gets a ballot with a text."""

    async def ask(_hear: Hear) -> Ballot:
        started_s = time.monotonic()
        completion = await client.complete(request, timeout_s=max(LEAST_S, until_s - started_s))
        return ballot_from_completion(member, completion, latency_s=time.monotonic() - started_s)

    return ask


def ask_for_stream(member: str, client: MemberClient, request: GenerationRequest, *, until_s: float) -> Ask:
    """Build the call that gets a ballot with a text, telling each piece on the way."""

    async def ask(hear: Hear) -> Ballot:
        started_s = time.monotonic()
        pieces: list[str] = []
        last: CompletionChunk | None = None
        timeout_s = max(LEAST_S, until_s - started_s)
        async with aclosing(client.stream(request, timeout_s=timeout_s)) as chunks:
            async for chunk in chunks:
                last = chunk
                if chunk.text:
                    pieces.append(chunk.text)
                    await hear(TextPiece(member=member, text=chunk.text))
        if last is None or last.finish_reason is None:
            raise MemberError(member, "its completion broke off")
        completion = Completion(
            text="".join(pieces),
            finish_reason=last.finish_reason,
            prompt_tokens=last.prompt_tokens,
            completion_tokens=last.completion_tokens,
            logprob=last.logprob,
        )
        return ballot_from_completion(member, completion, latency_s=time.monotonic() - started_s)

    return ask
