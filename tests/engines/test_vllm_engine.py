"""The vLLM engine against plain transformers and the embedded engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ensemble.engines.load import build_engine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import MemberError, MemberRefusedError
from ensemble.generation import (
    EmbeddingRequest,
    FinishReason,
    GenerationParameters,
    GenerationRequest,
    ScoringRequest,
)
from tests.engines.embedded_runs import generate_plainly, make_prompt, mean_logprob_plainly, running
from tests.engines.tiny_checkpoints import BOS
from tests.engines.vllm_runs import (
    MOST_VLLM_STEPS_TO_ABORT,
    NEEDS_VLLM,
    START_TIMEOUT,
    SharedVllm,
    read_chunks,
    read_text,
    read_texts,
    until_idle,
    vllm_config,
)

if TYPE_CHECKING:
    from ensemble.engines.engine import EngineStats
    from ensemble.engines.prompt_format import ScoringRuleName

pytestmark = [pytest.mark.vllm, NEEDS_VLLM, START_TIMEOUT, pytest.mark.asyncio(loop_scope="session")]

LENGTHS = (1, 3, 17, 40, 90)
CHOICES = ("w4", "w5 w6 w7", "w8 w9 w10 w11 w12 w13", "w4 w6")


async def test_completions_are_those_of_transformers_generate(tiny_vllm: SharedVllm) -> None:
    prompts = [make_prompt(length) for length in LENGTHS]
    async with tiny_vllm.engine() as engine:
        completions = await read_texts(engine, prompts)

    assert completions == [generate_plainly(tiny_vllm.checkpoint, prompt, 24) for prompt in prompts]


async def test_scores_are_those_of_a_plain_forward_pass_a_choice(tiny_vllm: SharedVllm) -> None:
    prompts = [make_prompt(length) for length in (5, 19, 64, 100)]
    async with (
        tiny_vllm.engine(prompt_format=PromptFormat(score_template="w1 {prompt} w2")) as engine,
        asyncio.TaskGroup() as group,
    ):
        tasks = [
            group.create_task(engine.score(ScoringRequest(request_id="s", prompt=prompt, choices=CHOICES)))
            for prompt in prompts
        ]

    for prompt, task in zip(prompts, tasks, strict=True):
        expected = [mean_logprob_plainly(tiny_vllm.checkpoint, f"w1 {prompt} w2", choice) for choice in CHOICES]
        assert task.result().logprobs == pytest.approx(expected, abs=1e-3)
        assert task.result().num_tokens == (1, 3, 6, 2)


@pytest.mark.parametrize("rule", ["mean_logprob", "sum_logprob", "pmi"])
async def test_every_scoring_rule_gives_what_the_embedded_engine_gives(
    tiny_vllm: SharedVllm, rule: ScoringRuleName
) -> None:
    prompt_format = PromptFormat(score_template="w1 {prompt} w2", scoring=rule, pmi_template="w3")
    request = ScoringRequest(request_id="s", prompt=make_prompt(20), choices=CHOICES)
    async with running(tiny_vllm.checkpoint, prompt_format) as embedded:
        expected = await embedded.score(request)
    async with tiny_vllm.engine(prompt_format=prompt_format) as engine:
        scores = [await engine.score(request) for _ in range(2)]

    for score in scores:
        assert score.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
        assert (score.num_tokens, score.prompt_tokens) == (expected.num_tokens, expected.prompt_tokens)


async def test_more_choices_than_vllm_scores_at_once_are_all_scored(tiny_vllm: SharedVllm) -> None:
    choices = tuple(f"w{n}" for n in range(200))
    async with tiny_vllm.engine(prompt_format=PromptFormat(score_template="{prompt}")) as engine:
        scores = await engine.score(ScoringRequest(request_id="s", prompt="w7", choices=choices))

    expected = [mean_logprob_plainly(tiny_vllm.checkpoint, "w7", choice) for choice in choices]
    assert scores.logprobs == pytest.approx(expected, abs=1e-3)


async def test_a_prompt_that_was_read_is_not_read_again(tiny_vllm: SharedVllm) -> None:
    prompt = make_prompt(150)
    async with tiny_vllm.engine() as engine:
        first = await read_text(engine, prompt)
        read_before = engine.stats().cached_prompt_tokens
        second = await read_text(engine, prompt)
        stats = engine.stats()

    assert second == first
    # Blocks of 32 tokens are kept, and the last token is always read.
    assert (read_before, stats.cached_prompt_tokens) == (0, 128)


async def test_a_completion_s_logprob_is_the_sum_over_its_tokens(tiny_vllm: SharedVllm) -> None:
    async with tiny_vllm.engine() as engine:
        chunks = await read_chunks(engine, make_prompt(9), max_tokens=12)

    text = "".join(chunk.text for chunk in chunks)
    expected = 12 * mean_logprob_plainly(tiny_vllm.checkpoint, make_prompt(9), text)
    assert chunks[-1].logprob == pytest.approx(expected, abs=1e-3)


async def test_a_seed_gives_the_same_completion_whatever_else_is_in_the_batch(tiny_vllm: SharedVllm) -> None:
    drawn = {"temperature": 1.0, "top_p": 0.9}
    async with tiny_vllm.engine() as engine:
        alone = await read_text(engine, make_prompt(6), seed=7, **drawn)
        async with asyncio.TaskGroup() as group:
            together = group.create_task(read_text(engine, make_prompt(6), seed=7, **drawn))
            other_seed = group.create_task(read_text(engine, make_prompt(6), seed=8, **drawn))
            group.create_task(read_text(engine, make_prompt(40), **drawn))
            group.create_task(read_text(engine, make_prompt(3)))

    assert together.result() == alone
    assert other_seed.result() != alone


async def leave_a_stream(vllm: SharedVllm) -> tuple[int, int, EngineStats]:
    """Leave a stream after its first piece; gives what vLLM held before and after, and what was counted."""
    async with vllm.engine() as engine:
        recorder = engine._loaded.recorder  # type: ignore[union-attr]
        stream = engine.generate(
            GenerationRequest(request_id="g", prompt="w3", parameters=GenerationParameters(max_tokens=3000))
        )
        await anext(stream)
        held_before = recorder.num_held
        await stream.aclose()
        await until_idle(engine)
        return held_before, recorder.num_held, engine.stats()


async def test_vllm_itself_frees_the_place_of_a_client_that_has_gone(tiny_vllm: SharedVllm) -> None:
    held_before, held_after, stats = await leave_a_stream(tiny_vllm)

    assert (held_before, held_after) == (1, 0)
    assert stats.max_steps_to_abort <= MOST_VLLM_STEPS_TO_ABORT
    assert (stats.aborted_requests, stats.running_requests) == (1, 0)


async def test_an_abort_that_nothing_holds_up_takes_vllm_one_step(tiny_vllm: SharedVllm) -> None:
    aborts = [await leave_a_stream(tiny_vllm) for _ in range(5)]

    assert min(stats.max_steps_to_abort for _, _, stats in aborts) <= 1


async def test_vllm_s_steps_are_told_to_the_engine_alone(tiny_vllm: SharedVllm) -> None:
    async with tiny_vllm.engine() as engine:
        loaded = engine._loaded
        assert loaded is not None
        assert loaded.llm.logger_manager is not None
        told = [type(logger).__name__ for logger in loaded.llm.logger_manager.stat_loggers]
        await read_text(engine, "w1")
        num_steps = engine.stats().steps

    assert told == ["PerEngineStatLoggerAdapter"]
    assert num_steps > 0


async def test_cancelling_a_scoring_takes_its_questions_out_of_vllm(tiny_vllm: SharedVllm) -> None:
    choices = tuple(make_prompt(n) for n in range(30, 40))
    async with tiny_vllm.engine() as engine:
        loaded = engine._loaded
        assert loaded is not None
        task = asyncio.create_task(
            engine.score(ScoringRequest(request_id="s", prompt=make_prompt(2000), choices=choices))
        )
        while not loaded._request_ids:  # noqa: ASYNC110 encoding takes a moment
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = set(loaded._request_ids)
        await until_idle(engine)
        stats = engine.stats()

    assert left == set()
    assert (stats.aborted_requests, stats.running_requests, stats.waiting_requests) == (1, 0, 0)


async def test_a_prompt_beyond_the_context_is_refused_and_one_below_it_ends_at_it(tiny_vllm: SharedVllm) -> None:
    async with tiny_vllm.engine(max_context=32) as engine:
        with pytest.raises(MemberRefusedError, match="the context holds 32"):
            await read_text(engine, make_prompt(32))
        with pytest.raises(MemberRefusedError, match="the context holds 32"):
            await engine.score(ScoringRequest(request_id="s", prompt=make_prompt(28), choices=("w1", make_prompt(9))))
        last = (await read_chunks(engine, make_prompt(20), max_tokens=500))[-1]

    assert (last.completion_tokens, last.finish_reason) == (12, FinishReason.LENGTH)


async def test_bos_comes_first_exactly_once_when_asked_for(tiny_vllm: SharedVllm) -> None:
    async with tiny_vllm.engine(add_bos=True) as engine:
        with_bos = (await read_chunks(engine, "w1 w2"))[-1].prompt_tokens
        text = await read_text(engine, f"{BOS} w1 w2")

    assert with_bos == 3
    async with running(tiny_vllm.checkpoint, add_bos=True) as embedded:
        assert text == await read_text(embedded, f"{BOS} w1 w2")


async def test_what_vllm_does_not_take_is_refused_with_its_reason(tiny_vllm: SharedVllm) -> None:
    async with tiny_vllm.engine() as engine:
        with pytest.raises(MemberRefusedError, match="temperature"):
            await read_text(engine, "w1", temperature=7.0)
        stats = engine.stats()

    assert (stats.running_requests, stats.waiting_requests, stats.aborted_requests) == (0, 0, 0)


async def test_embeddings_are_refused_with_the_reason(tiny_vllm: SharedVllm) -> None:
    async with tiny_vllm.engine() as engine:
        with pytest.raises(MemberRefusedError, match="no embeddings"):
            await engine.embed(EmbeddingRequest(request_id="e", texts=("w1",)))


async def test_an_engine_that_was_never_started_serves_nothing() -> None:
    engine = build_engine(vllm_config(), checkpoint="unread", member="m", prompt_format=PromptFormat())

    with pytest.raises(MemberError, match="not started"):
        await read_text(engine, "w1")
