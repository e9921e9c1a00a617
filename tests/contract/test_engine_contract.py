"""What every engine owes its callers."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest

from ensemble.errors import MemberBusyError, MemberError, MemberRefusedError
from ensemble.generation import (
    CompletionChunk,
    EmbeddingRequest,
    FinishReason,
    GenerationParameters,
    GenerationRequest,
    ScoringRequest,
)
from tests.contract.engine_subjects import MANY_TOKENS, Subject
from tests.rpc.systems import wait_until

if TYPE_CHECKING:
    from ensemble.engines.engine import Engine

# One event loop for all: vLLM's processes, which the tests share, belong to one.
pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPTS = ("w5 w6 w7", "w8", " ".join(f"w{n}" for n in range(100, 140)), "w1 w9 w1 w9 w33")


def _ask(
    prompt: str, *, max_tokens: int = 24, stop: tuple[str, ...] = (), is_streamed: bool = True
) -> GenerationRequest:
    return GenerationRequest(
        request_id=prompt[:8],
        prompt=prompt,
        parameters=GenerationParameters(max_tokens=max_tokens, stop=stop),
        is_streamed=is_streamed,
    )


async def _read(engine: Engine, request: GenerationRequest) -> list[CompletionChunk]:
    return [chunk async for chunk in engine.generate(request)]


def _text(chunks: list[CompletionChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_the_last_chunk_alone_has_a_finish_reason(subject: Subject) -> None:
    async with subject.running() as engine:
        chunks = await _read(engine, _ask(PROMPTS[0]))

    assert [chunk.finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert (chunks[-1].logprob or 0.0) < 0
    counts = [chunk.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)


async def test_max_tokens_ends_a_completion(subject: Subject) -> None:
    async with subject.running() as engine:
        last = (await _read(engine, _ask(subject.long_prompt, max_tokens=3)))[-1]

    assert (last.finish_reason, last.completion_tokens) == (FinishReason.LENGTH, 3)


async def test_the_same_request_gives_the_same_completion_at_temperature_0(subject: Subject) -> None:
    async with subject.running() as engine:
        first = await _read(engine, _ask(PROMPTS[0]))
        second = await _read(engine, _ask(PROMPTS[0]))

    assert _text(first)
    assert _text(first) == _text(second)


async def test_requests_of_different_lengths_give_together_what_each_gives_alone(subject: Subject) -> None:
    requests = [_ask(prompt, max_tokens=6 + 7 * i) for i, prompt in enumerate(PROMPTS)]
    async with subject.running(max_batch=3) as engine:
        alone = [_text(await _read(engine, request)) for request in requests]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_read(engine, request)) for request in requests]
        together = [_text(task.result()) for task in tasks]

    assert together == alone


async def test_a_completion_ends_before_its_first_stop_string(subject: Subject) -> None:
    prompt = PROMPTS[2]
    async with subject.running() as engine:
        whole = _text(await _read(engine, _ask(prompt)))
        # Reaches over the border of two tokens.
        stop = whole[len(whole) // 2 : len(whole) // 2 + 6]
        chunks = await _read(engine, _ask(prompt, stop=("never said", stop)))

    assert _text(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("stop", [(), ("never said",)])
async def test_a_completion_that_is_not_streamed_is_the_streamed_one(subject: Subject, stop: tuple[str, ...]) -> None:
    async with subject.running() as engine:
        streamed = await _read(engine, _ask(PROMPTS[2], stop=stop))
        whole = await _read(engine, _ask(PROMPTS[2], stop=stop, is_streamed=False))

    assert _text(whole) == _text(streamed)
    assert whole[-1].finish_reason is streamed[-1].finish_reason
    assert (whole[-1].prompt_tokens, whole[-1].completion_tokens) == (
        streamed[-1].prompt_tokens,
        streamed[-1].completion_tokens,
    )
    assert whole[-1].logprob == pytest.approx(streamed[-1].logprob, abs=1e-3)


async def test_a_stop_string_that_only_begins_is_part_of_the_completion(subject: Subject) -> None:
    async with subject.running() as engine:
        whole = _text(await _read(engine, _ask(PROMPTS[0])))
        text = _text(await _read(engine, _ask(PROMPTS[0], stop=(whole[-3:] + "!",))))

    assert text == whole


async def test_closing_the_stream_takes_the_request_out_at_once(subject: Subject) -> None:
    async with subject.running() as engine:
        stream = engine.generate(_ask(subject.long_prompt, max_tokens=MANY_TOKENS))
        await anext(stream)
        await stream.aclose()
        # An engine looks for aborts before each step, so it has done so when another request is served.
        last = (await _read(engine, _ask(PROMPTS[0])))[-1]
        stats = engine.stats()

    assert (stats.aborted_requests, stats.finished_requests) == (1, 1)
    assert (stats.running_requests, stats.waiting_requests) == (0, 0)
    assert stats.max_steps_to_abort <= subject.most_steps_to_abort
    assert 1 <= stats.aborted_tokens < MANY_TOKENS
    assert stats.completion_tokens == stats.aborted_tokens + last.completion_tokens


async def test_cancelling_the_reading_task_takes_the_request_out_at_once(subject: Subject) -> None:
    has_begun = asyncio.Event()

    async def read(engine: Engine) -> None:
        async for _ in engine.generate(_ask(subject.long_prompt, max_tokens=MANY_TOKENS)):
            has_begun.set()

    async with subject.running() as engine:
        task = asyncio.create_task(read(engine))
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await _read(engine, _ask(PROMPTS[0]))
        stats = engine.stats()

    assert (stats.aborted_requests, stats.running_requests) == (1, 0)
    assert stats.max_steps_to_abort <= subject.most_steps_to_abort
    assert stats.aborted_tokens < MANY_TOKENS


async def test_cancelling_one_that_is_not_streamed_counts_what_it_had_generated(subject: Subject) -> None:
    async with subject.running() as engine:
        before = engine.stats()
        task = asyncio.create_task(_read(engine, _ask(subject.long_prompt, max_tokens=MANY_TOKENS, is_streamed=False)))
        await wait_until(lambda: engine.stats().steps >= before.steps + 3)
        assert (engine.stats().running_requests, engine.stats().waiting_requests) == (1, 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        last = (await _read(engine, _ask(PROMPTS[0])))[-1]
        stats = engine.stats()

    assert (stats.aborted_requests, stats.running_requests) == (1, 0)
    assert 1 <= stats.aborted_tokens < MANY_TOKENS
    assert stats.completion_tokens == stats.aborted_tokens + last.completion_tokens
    assert stats.started_requests == 2


async def test_cancelling_one_request_leaves_the_others_as_they_were(subject: Subject) -> None:
    request = _ask(PROMPTS[2], max_tokens=40)
    async with subject.running() as engine:
        alone = _text(await _read(engine, request))
        unwanted = engine.generate(_ask(subject.long_prompt, max_tokens=MANY_TOKENS))
        await anext(unwanted)
        wanted = engine.generate(request)
        text = (await anext(wanted)).text
        await unwanted.aclose()
        text += "".join([chunk.text async for chunk in wanted])

    assert text == alone


async def test_a_request_beyond_the_queue_is_refused_and_the_others_are_served(subject: Subject) -> None:
    async with subject.running(max_batch=1, max_waiting=1) as engine:
        running = engine.generate(_ask(subject.long_prompt, max_tokens=MANY_TOKENS))
        await anext(running)
        waiting = asyncio.create_task(_read(engine, _ask(PROMPTS[0], max_tokens=MANY_TOKENS)))
        await asyncio.sleep(0)  # One turn of the event loop lets the task put its request in.
        assert engine.stats().running_requests + engine.stats().waiting_requests == 2
        with pytest.raises(MemberBusyError):
            await _read(engine, _ask(PROMPTS[1]))
        with pytest.raises(MemberBusyError):
            await engine.score(ScoringRequest(request_id="s", prompt="w1", choices=("w2",)))
        await running.aclose()
        chunks = await waiting

    assert chunks[-1].finish_reason is not None


async def test_scores_are_the_same_whatever_runs_beside_them(subject: Subject) -> None:
    request = ScoringRequest(request_id="s", prompt="w1 w2 w3", choices=("w4", "w5 w6 w7", "w8 w9"))
    other = ScoringRequest(request_id="t", prompt="w9", choices=("w4 w4", "w1"))
    async with subject.running() as engine:
        alone = await engine.score(request)
        async with asyncio.TaskGroup() as group:
            together = group.create_task(engine.score(request))
            group.create_task(engine.score(other))
            group.create_task(_read(engine, _ask(PROMPTS[2])))

    assert together.result().logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert alone.num_tokens == (1, 3, 2)
    assert all(logprob < 0 for logprob in alone.logprobs)
    assert len(set(alone.logprobs)) == 3


@pytest.mark.parametrize("choices", [(), ("w1", " ")], ids=["no_choice", "a_choice_without_tokens"])
async def test_scoring_nothing_is_refused(subject: Subject, choices: tuple[str, ...]) -> None:
    async with subject.running() as engine:
        with pytest.raises(MemberRefusedError):
            await engine.score(ScoringRequest(request_id="s", prompt="w1", choices=choices))

        assert engine.stats().running_requests == 0


async def test_equal_texts_have_equal_embeddings_of_norm_1_and_others_differ(subject: Subject) -> None:
    if not subject.has_embeddings:
        pytest.skip("it runs its model to generate alone")
    async with subject.running() as engine:
        first = await engine.embed(EmbeddingRequest(request_id="e", texts=("w1 w2", "w3", "w1 w2")))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(engine.embed(EmbeddingRequest(request_id="f", texts=("w3",))))
            group.create_task(_read(engine, _ask(PROMPTS[2])))

    assert [math.hypot(*vector) for vector in first.vectors] == pytest.approx([1.0] * 3)
    assert first.vectors[0] == pytest.approx(first.vectors[2], abs=1e-5)
    assert task.result().vectors[0] == pytest.approx(first.vectors[1], abs=1e-4)
    assert first.vectors[0] != pytest.approx(first.vectors[1], abs=1e-2)
    assert first.prompt_tokens == 5


@pytest.mark.parametrize("texts", [(), ("w1", " ")], ids=["no_text", "an_empty_text"])
async def test_embedding_nothing_is_refused(subject: Subject, texts: tuple[str, ...]) -> None:
    async with subject.running() as engine:
        with pytest.raises(MemberRefusedError):
            await engine.embed(EmbeddingRequest(request_id="e", texts=texts))

        assert engine.stats().running_requests == 0


async def test_stats_add_up(subject: Subject) -> None:
    requests = [_ask(prompt) for prompt in PROMPTS]
    scoring = ScoringRequest(request_id="s", prompt="w1 w2", choices=("w4", "w5"))
    async with subject.running(max_batch=2) as engine:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_read(engine, request)) for request in requests]
            scores = group.create_task(engine.score(scoring))
        lasts = [task.result()[-1] for task in tasks]
        stats = engine.stats()

    assert stats.finished_requests == len(requests) + 1
    assert stats.completion_tokens == sum(last.completion_tokens for last in lasts)
    assert stats.prompt_tokens == sum(last.prompt_tokens for last in lasts) + scores.result().prompt_tokens
    assert stats.started_requests == stats.finished_requests
    assert 0 < stats.steps <= stats.batched_requests <= stats.steps * stats.max_batch
    assert stats.queue_s >= 0.0
    assert 0.0 <= stats.cache_share <= 1.0
    assert (stats.aborted_requests, stats.running_requests, stats.waiting_requests) == (0, 0, 0)


async def test_closing_the_engine_fails_what_runs_and_what_comes(subject: Subject) -> None:
    async with subject.running() as engine:
        await engine.check_health()
        stream = engine.generate(_ask(subject.long_prompt, max_tokens=MANY_TOKENS))
        await anext(stream)
        await engine.close()

        with pytest.raises(MemberError):
            [chunk async for chunk in stream]
        with pytest.raises(MemberError):
            await _read(engine, _ask(PROMPTS[0]))
        with pytest.raises(MemberError):
            await engine.check_health()
        await engine.close()
        assert (engine.stats().running_requests, engine.stats().aborted_requests) == (0, 1)


async def test_a_completion_needs_room_for_a_token(subject: Subject) -> None:
    async with subject.running() as engine:
        with pytest.raises(MemberRefusedError):
            await _read(engine, _ask(PROMPTS[0], max_tokens=0))
