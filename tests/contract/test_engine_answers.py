"""What every engine answers: what its checkpoint says, alone and in a crowd, and its memory afterwards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import MemberError
from ensemble.generation import (
    CompletionChunk,
    FinishReason,
    GenerationParameters,
    GenerationRequest,
    ScoringRequest,
)
from tests.contract.engine_subjects import MANY_TOKENS, Subject
from tests.engines.embedded_runs import generate_plainly, make_prompt, mean_logprob_plainly
from tests.engines.tiny_checkpoints import PARROT_TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ensemble.engines.engine import Engine

# One event loop for all: vLLM's processes, which the tests share, belong to one.
pytestmark = pytest.mark.asyncio(loop_scope="session")

NUM_TOGETHER = 64
CHOICES = ("w4", "w5 w6 w7", "w8 w9", "w4 w6")


def _ask(prompt: str, max_tokens: int, *, stop: tuple[str, ...] = ()) -> GenerationRequest:
    return GenerationRequest(
        request_id=prompt[:8], prompt=prompt, parameters=GenerationParameters(max_tokens=max_tokens, stop=stop)
    )


async def _read(engine: Engine, request: GenerationRequest) -> list[CompletionChunk]:
    return [chunk async for chunk in engine.generate(request)]


async def _complete(engine: Engine, request: GenerationRequest) -> str:
    return "".join(chunk.text for chunk in await _read(engine, request))


async def _complete_together(engine: Engine, requests: Sequence[GenerationRequest]) -> list[str]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_complete(engine, request)) for request in requests]
    return [task.result() for task in tasks]


async def test_64_requests_of_different_lengths_give_together_what_each_gives_alone(subject: Subject) -> None:
    requests = [_ask(make_prompt(1 + n), 1 + 5 * n % 9) for n in range(NUM_TOGETHER)]
    async with subject.running(max_batch=16) as engine:
        alone = [await _complete(engine, request) for request in requests]
        together = await _complete_together(engine, requests)

    assert together == alone


async def test_prompts_with_a_common_beginning_give_together_what_each_gives_alone(subject: Subject) -> None:
    requests = [_ask(f"{make_prompt(70)} w{n}", 6) for n in range(8)]
    async with subject.running() as engine:
        together = await _complete_together(engine, requests)
        alone = [await _complete(engine, request) for request in requests]

    assert together == alone


async def test_memory_returns_after_a_burst_with_aborts(subject: Subject) -> None:
    async with subject.running(max_batch=4) as engine:
        streams = [engine.generate(_ask(subject.long_prompt, MANY_TOKENS)) for _ in range(4)]
        for stream in streams:
            await anext(stream)
        share_taken = engine.stats().cache_share
        waiting = [asyncio.create_task(_complete(engine, _ask(make_prompt(n), 5))) for n in range(1, 30)]
        for stream in streams:
            await stream.aclose()
        await asyncio.wait(waiting)
        # What an engine has to give back it has given back when it serves the next.
        await _complete(engine, _ask("w1", 1))
        stats = engine.stats()

    assert (stats.running_requests, stats.waiting_requests) == (0, 0)
    assert (stats.aborted_requests, stats.finished_requests) == (4, 30)
    assert (share_taken > 0, stats.cache_share) == (subject.counts_blocks, 0)


async def test_completions_are_those_of_transformers_generate(model: Subject) -> None:
    prompts = [make_prompt(length) for length in (1, 17, 90)]
    async with model.running() as engine:
        texts = await _complete_together(engine, [_ask(prompt, 16) for prompt in prompts])

    assert texts == [generate_plainly(model.checkpoint, prompt, 16) for prompt in prompts]


async def test_log_probabilities_are_those_of_a_reference_forward_pass(model: Subject) -> None:
    wording = PromptFormat()
    async with model.running() as engine:
        for num_words in range(19, 40):
            prompt = make_prompt(num_words)
            chunks = await _read(engine, _ask(prompt, 8))
            if chunks[-1].finish_reason is FinishReason.LENGTH:  # every token is in the text
                break
        scores = await engine.score(ScoringRequest(request_id="s", prompt=prompt, choices=CHOICES))

    question = wording.scoring_text(prompt)
    expected = [mean_logprob_plainly(model.checkpoint, question, wording.choice_text(choice)) for choice in CHOICES]
    assert scores.logprobs == pytest.approx(expected, abs=1e-3)
    text = "".join(chunk.text for chunk in chunks)
    assert len(text.split()) == chunks[-1].completion_tokens
    assert chunks[-1].logprob is not None
    assert chunks[-1].logprob / len(text.split()) == pytest.approx(
        mean_logprob_plainly(model.checkpoint, prompt, text), abs=1e-3
    )


async def test_characters_that_span_tokens_are_never_cut(parrot: Subject) -> None:
    async with parrot.running() as engine:
        chunks = await _read(engine, _ask("a", 30))
        cut = await _read(engine, _ask("a", 2))

    assert "".join(chunk.text for chunk in chunks) == PARROT_TEXT[1:]
    assert [len(chunk.text) for chunk in chunks if chunk.text] == [1] * (len(PARROT_TEXT) - 1)
    # b and half of é: two tokens, one character.
    assert "".join(chunk.text for chunk in cut) == "b"
    assert (cut[-1].finish_reason, cut[-1].completion_tokens) == (FinishReason.LENGTH, 2)


async def test_stop_strings_are_found_across_tokens_and_never_shown_in_part(parrot: Subject) -> None:
    async with parrot.running() as engine:
        chunks = await _read(engine, _ask("a", 30, stop=("€🦜z", "never")))

    assert "".join(chunk.text for chunk in chunks) == "bé"
    assert chunks[-1].finish_reason is FinishReason.STOP


async def test_logits_that_are_not_numbers_fail_their_own_request_only(parrot: Subject) -> None:
    async with parrot.running() as engine:
        async with asyncio.TaskGroup() as group:
            sound = group.create_task(_complete(engine, _ask("a", 30)))
            with pytest.raises(MemberError, match="not numbers"):
                await _complete(engine, _ask("#", 30))
            with pytest.raises(MemberError, match="not numbers"):
                await engine.score(ScoringRequest(request_id="s", prompt="#", choices=("a",)))
        await engine.check_health()
        stats = engine.stats()

    assert sound.result() == PARROT_TEXT[1:]
    assert (stats.running_requests, stats.cache_share) == (0, 0)
