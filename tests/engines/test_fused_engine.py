"""The fused engine against transformers' plain forward passes, mixed in the test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import MemberError
from ensemble.generation import EmbeddingRequest, GenerationParameters, GenerationRequest, ScoringRequest
from tests.engines.embedded_runs import make_prompt, mean_logprob_plainly, read, read_together, running, text_of
from tests.engines.fused_runs import (
    GEOMETRIC,
    LINEAR,
    WEIGHTS,
    complete_plainly,
    mean_logprob_of_mixture,
    running_fused,
)
from tests.engines.tiny_checkpoints import PARROT_TEXT, save_parrot, save_random_gemma, save_random_llama

if TYPE_CHECKING:
    from ensemble.engines.embedded import EmbeddedEngine

LENGTHS = (1, 3, 17, 40)
CHOICES = ("w4", "w5 w6 w7", "w8 w9 w10 w11 w12 w13")
SPECULATIVE = "speculative"
SAMPLED = {"temperature": 1.0, "top_p": 0.9}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two models that have nothing in common but their tokenizer."""
    folder = tmp_path_factory.mktemp("pair")
    return save_random_llama(folder / "llama"), save_random_gemma(folder / "gemma")


@pytest.mark.parametrize("options", [{"method": LINEAR}, {"method": GEOMETRIC}, {"method": SPECULATIVE}], ids=str)
async def test_a_model_mixed_with_itself_is_the_model(checkpoint: str, options: dict[str, Any]) -> None:
    prompts = [make_prompt(length) for length in LENGTHS]
    request = ScoringRequest(request_id="s", prompt=make_prompt(9), choices=CHOICES)
    async with running(checkpoint) as alone, running_fused([checkpoint] * 2, **options) as fused:
        expected, expected_scores = await read_together(alone, prompts), await alone.score(request)
        completions, scores = await read_together(fused, prompts), await fused.score(request)

    assert completions == expected
    assert scores.logprobs == pytest.approx(expected_scores.logprobs, abs=1e-4)
    assert scores.num_tokens == expected_scores.num_tokens


@pytest.mark.parametrize(
    ("options", "pooling"),
    [
        ({"method": LINEAR}, "linear"),
        ({"method": GEOMETRIC}, "geometric"),
        ({"method": SPECULATIVE}, "linear"),
        ({"method": SPECULATIVE, "mixture": "geometric", "drafter": 0, "max_draft": 3}, "geometric"),
    ],
    ids=str,
)
@pytest.mark.parametrize("max_step_tokens", [16, 512], ids=["prompts_in_pieces", "prompts_packed"])
async def test_greedy_tokens_are_the_mixture_s_likeliest(
    pair: tuple[str, str], options: dict[str, Any], pooling: str, max_step_tokens: int
) -> None:
    prompts = [make_prompt(length) for length in LENGTHS]
    async with running_fused(pair, weights=WEIGHTS, max_batch=3, max_step_tokens=max_step_tokens, **options) as engine:
        completions = await read_together(engine, prompts, max_tokens=16)

    assert completions == [complete_plainly(pair, prompt, 16, pooling=pooling) for prompt in prompts]


@pytest.mark.parametrize(
    ("options", "pooling"),
    [({"method": LINEAR}, "linear"), ({"method": GEOMETRIC}, "geometric"), ({"method": "mix_sample"}, "linear")],
    ids=str,
)
@pytest.mark.parametrize("max_step_tokens", [8, 512], ids=["in_pieces", "in_one_pass"])
async def test_scores_are_the_mixture_s(
    pair: tuple[str, str], options: dict[str, Any], pooling: str, max_step_tokens: int
) -> None:
    prompt_format = PromptFormat(score_template="w1 {prompt} w2")
    request = ScoringRequest(request_id="s", prompt=make_prompt(19), choices=CHOICES)
    async with running_fused(
        pair, prompt_format, weights=WEIGHTS, max_step_tokens=max_step_tokens, **options
    ) as engine:
        scores = await engine.score(request)

    expected = [
        mean_logprob_of_mixture(pair, f"w1 {make_prompt(19)} w2", choice, pooling=pooling) for choice in CHOICES
    ]
    assert scores.logprobs == pytest.approx(expected, abs=1e-4)


async def test_the_scoring_rules_take_the_mixture_s_log_probabilities(pair: tuple[str, str]) -> None:
    request = ScoringRequest(request_id="s", prompt="w7 w3", choices=CHOICES)
    scores = {}
    for scoring in ("mean_logprob", "sum_logprob", "pmi"):
        prompt_format = PromptFormat(score_template="{prompt}", scoring=scoring, pmi_template="w1")
        async with running_fused(pair, prompt_format, weights=WEIGHTS) as engine:
            scores[scoring] = (await engine.score(request)).logprobs

    counts = [len(choice.split()) for choice in CHOICES]
    priors = [
        n * mean_logprob_of_mixture(pair, "w1", choice, pooling="linear")
        for n, choice in zip(counts, CHOICES, strict=True)
    ]
    sums = [n * mean for n, mean in zip(counts, scores["mean_logprob"], strict=True)]
    assert scores["sum_logprob"] == pytest.approx(sums, abs=1e-4)
    assert scores["pmi"] == pytest.approx([s - prior for s, prior in zip(sums, priors, strict=True)], abs=1e-3)


@pytest.mark.parametrize("method", [LINEAR, SPECULATIVE])
async def test_a_completion_s_logprob_is_the_mixture_s(pair: tuple[str, str], method: str) -> None:
    async with running_fused(pair, method=method, weights=WEIGHTS) as engine:
        last = (await read(engine, make_prompt(9), max_tokens=12, temperature=0.8, seed=3))[-1]
        text = await text_of(engine, make_prompt(9), max_tokens=12, temperature=0.8, seed=3)

    mean = mean_logprob_of_mixture(pair, make_prompt(9), text, pooling="linear")
    assert last.completion_tokens == len(text.split())
    assert last.logprob == pytest.approx(last.completion_tokens * mean, abs=1e-3)


@pytest.mark.parametrize("parameters", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("method", [LINEAR, "mix_sample", SPECULATIVE])
async def test_requests_that_join_and_leave_do_not_disturb_each_other(
    pair: tuple[str, str], method: str, parameters: dict[str, float]
) -> None:
    prompts = [make_prompt(length) for length in (2, 9, 30, 4, 60, 5, 12, 1)]

    async def ask(engine: EmbeddedEngine, i: int) -> str:
        return await text_of(engine, prompts[i], max_tokens=3 + 11 * (i % 4), seed=i, **parameters)

    async with running_fused(pair, method=method, weights=WEIGHTS, max_batch=4, max_step_tokens=32) as engine:
        alone = [await ask(engine, i) for i in range(len(prompts))]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(engine, i)) for i in range(len(prompts))]
        most = engine.stats().max_batch

    assert [task.result() for task in tasks] == alone
    assert most == 4


async def test_a_seed_gives_the_same_completion_however_much_is_proposed(pair: tuple[str, str]) -> None:
    completions = set()
    for max_draft in (1, 3, 8):
        async with running_fused(pair, method=SPECULATIVE, max_draft=max_draft) as engine:
            completions.add(await text_of(engine, make_prompt(6), seed=7, **SAMPLED))

    assert len(completions) == 1


async def test_stop_strings_end_a_completion_within_a_block(pair: tuple[str, str]) -> None:
    async with running_fused(pair, method=SPECULATIVE) as engine:
        whole = await text_of(engine, make_prompt(5))
        stop = whole[len(whole) // 2 : len(whole) // 2 + 6]
        stopped = await text_of(engine, make_prompt(5), stop=(stop,))
        stats = engine.stats()

    assert stopped == whole[: whole.index(stop)]
    assert stats.running_requests == 0


@pytest.mark.parametrize("weights", [(1.0, 1e-9), (1e-9, 1.0)], ids=["first", "second"])
async def test_mix_sample_with_nearly_all_weight_on_one_is_that_one(
    pair: tuple[str, str], weights: tuple[float, float]
) -> None:
    async with (
        running(pair[weights.index(1.0)]) as alone,
        running_fused(pair, method="mix_sample", weights=weights) as fused,
    ):
        expected = [await text_of(alone, make_prompt(length)) for length in LENGTHS]
        completions = await read_together(fused, [make_prompt(length) for length in LENGTHS])

    assert completions == expected


async def test_mix_sample_takes_turns_and_repeats_itself_at_temperature_0(pair: tuple[str, str]) -> None:
    async with running_fused(pair, method="mix_sample") as fused:
        texts = [await text_of(fused, make_prompt(5)) for _ in range(2)]
        other_seed = await text_of(fused, make_prompt(5), seed=11)

    assert texts[0] == texts[1] != other_seed


async def test_embeddings_are_the_first_checkpoint_s(pair: tuple[str, str]) -> None:
    request = EmbeddingRequest(request_id="e", texts=(make_prompt(5), make_prompt(40)))
    async with running(pair[0], max_step_tokens=16) as alone, running_fused(pair, max_step_tokens=16) as fused:
        expected, vectors = await alone.embed(request), await fused.embed(request)

    for vector, other in zip(vectors.vectors, expected.vectors, strict=True):
        assert vector == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("method", [LINEAR, GEOMETRIC, "mix_sample", SPECULATIVE])
async def test_a_checkpoint_that_gives_no_numbers_is_named_and_others_are_served(
    tmp_path_factory: pytest.TempPathFactory, method: str
) -> None:
    folder = tmp_path_factory.mktemp("parrots")
    sound, broken = save_parrot(folder / "sound", PARROT_TEXT), save_parrot(folder / "bad", PARROT_TEXT, broken_by="#")
    async with running_fused([sound, broken], method=method) as engine:
        expected = await text_of(engine, "a")
        async with asyncio.TaskGroup() as group:
            good = group.create_task(text_of(engine, "a"))
            bad = group.create_task(_failure(engine, "a#"))
        scoring = await _failure_of_scoring(engine, "#")
        after = await text_of(engine, "a")

    assert (good.result(), after) == (expected, expected) == (PARROT_TEXT[1:],) * 2
    for failure in (bad.result(), scoring):
        assert broken in str(failure)
        assert sound not in str(failure).replace(broken, "")


async def _failure(engine: EmbeddedEngine, prompt: str) -> MemberError:
    with pytest.raises(MemberError) as caught:
        await text_of(engine, prompt)
    return caught.value


async def _failure_of_scoring(engine: EmbeddedEngine, prompt: str) -> MemberError:
    with pytest.raises(MemberError) as caught:
        await engine.score(ScoringRequest(request_id="s", prompt=prompt, choices=("a",)))
    return caught.value


@pytest.mark.parametrize("method", [LINEAR, "mix_sample", SPECULATIVE])
async def test_an_abort_takes_a_request_out_within_one_step(pair: tuple[str, str], method: str) -> None:
    async with running_fused(pair, method=method, max_context=2048) as engine:
        stream = engine.generate(
            GenerationRequest(request_id="g", prompt="w1", parameters=GenerationParameters(max_tokens=2000))
        )
        await anext(stream)
        await stream.aclose()
        await text_of(engine, "w2", max_tokens=4)
        stats = engine.stats()

    assert (stats.aborted_requests, stats.running_requests) == (1, 0)
    assert stats.max_steps_to_abort <= 1
    assert stats.aborted_tokens < 2000


def test_the_reference_is_the_model_s_own_score_when_the_weight_is_all_its(pair: tuple[str, str]) -> None:
    mixed = mean_logprob_of_mixture(pair, "w1 w2", "w3 w4", pooling="linear", weights=(1.0, 0.0))

    assert mixed == pytest.approx(mean_logprob_plainly(pair[0], "w1 w2", "w3 w4"), abs=1e-5)
