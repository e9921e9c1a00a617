"""The embedded engine's cache: its bound is kept, requests wait for room, prompts that begin alike are read once."""

from __future__ import annotations

import asyncio
import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ensemble.engines.block_pool import BLOCK_TOKENS
from ensemble.engines.forward_passes import ForwardPasses
from ensemble.engines.fused_passes import FusedPasses
from ensemble.engines.paged_cache import PagedLayer
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import ConfigError, MemberError
from ensemble.generation import EmbeddingRequest, GenerationParameters, GenerationRequest, ScoringRequest
from tests.engines.embedded_runs import make_prompt, mean_logprob_plainly, read, read_together, running, text_of
from tests.engines.fused_runs import running_fused
from tests.engines.tiny_checkpoints import save_random_llama

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ensemble.engines.paged_cache import PagedCache

# Two layers' keys and values, two heads of eight float32 numbers.
BYTES_PER_TOKEN = 2 * 2 * 2 * 8 * 4
AS_IT_IS = PromptFormat(score_template="{prompt}")


def gib(num_tokens: int) -> float:
    return num_tokens * BYTES_PER_TOKEN / 2**30


@contextmanager
def memory_left(*, gib: int) -> Iterator[None]:
    """Let this process have so much more address space."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    taken_bytes = int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken_bytes + gib * 2**30, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[PagedCache]:
    """Collect the caches that engines make; an engine's own is its last."""
    made: list[PagedCache] = []

    def collect(new_cache: Callable[..., PagedCache]) -> Callable[..., PagedCache]:
        def make(*args: Any, **options: Any) -> PagedCache:
            made.append(new_cache(*args, **options))
            return made[-1]

        return make

    for passes in (ForwardPasses, FusedPasses):
        monkeypatch.setattr(passes, "new_cache", collect(passes.new_cache))
    return made


async def test_the_stated_bound_is_kept_while_requests_that_need_more_wait(
    checkpoint: str, caches: list[PagedCache]
) -> None:
    # Room for two requests of 64 tokens at a time; sixteen come.
    prompts = [make_prompt(30 + n) for n in range(16)]
    async with running(checkpoint, max_batch=16, max_context=64) as engine:
        expected = await read_together(engine, prompts)
    async with running(checkpoint, max_batch=16, max_context=64, kv_cache_gib=gib(128)) as engine:
        texts = await read_together(engine, prompts)
        num_bytes = caches[-1].num_bytes
        most, share = engine.stats().max_batch, engine.stats().cache_share

    assert texts == expected
    assert num_bytes == 128 * BYTES_PER_TOKEN
    assert most == 2
    assert share == 0


async def test_the_whole_cache_is_there_before_the_first_request(checkpoint: str, caches: list[PagedCache]) -> None:
    async with running(checkpoint, max_batch=3, max_context=64):
        num_bytes = caches[-1].num_bytes
    async with running_fused([checkpoint] * 2, max_batch=3, max_context=64):
        num_bytes_fused = caches[-1].num_bytes

    assert (num_bytes, num_bytes_fused) == (3 * 64 * BYTES_PER_TOKEN, 2 * 3 * 64 * BYTES_PER_TOKEN)


async def test_a_cache_for_which_there_is_no_memory_is_refused_at_the_start(tmp_path: Path) -> None:
    checkpoint = save_random_llama(tmp_path, head_dim=256)
    with (
        memory_left(gib=2),
        pytest.raises(ConfigError, match=r"kv_cache_gib: the cache of 1048576 tokens cannot be made: .*Memory"),
    ):
        # 8 GiB.
        async with running(checkpoint, max_batch=256, max_context=4096):
            pass


async def test_a_bound_that_holds_no_request_is_refused_at_the_start(checkpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"kv_cache_gib: .* hold 48 tokens .* may have 256"):
        async with running(checkpoint, kv_cache_gib=gib(50)):
            pass


async def test_without_a_bound_there_is_room_for_all_requests_of_full_length(
    checkpoint: str, caches: list[PagedCache]
) -> None:
    async with running(checkpoint, max_batch=3, max_context=64) as engine:
        await text_of(engine, "w1", max_tokens=1)

        assert caches[-1].num_tokens == 3 * 64


@pytest.mark.parametrize("max_step_tokens", [24, 512], ids=["in_pieces", "packed"])
async def test_a_prompt_that_begins_as_another_is_read_from_there_and_completed_alike(
    checkpoint: str, max_step_tokens: int
) -> None:
    prompts = [f"{make_prompt(70)} {make_prompt(n)}" for n in (3, 9, 20)]
    async with running(checkpoint, prefix_caching=False, max_step_tokens=max_step_tokens) as engine:
        expected = [await text_of(engine, prompt) for prompt in prompts]
        assert engine.stats().cached_prompt_tokens == 0
    async with running(checkpoint, max_step_tokens=max_step_tokens) as engine:
        one_by_one = [await text_of(engine, prompt) for prompt in prompts]
        num_reused = engine.stats().cached_prompt_tokens
        together = await read_together(engine, prompts)

    assert one_by_one == together == expected
    assert num_reused == 2 * (70 // BLOCK_TOKENS) * BLOCK_TOKENS


async def test_prompts_that_come_together_and_begin_alike_read_their_beginning_once(checkpoint: str) -> None:
    prompts = [f"{make_prompt(64)} w{n} w{n + 1}" for n in range(8)]
    async with running(checkpoint) as engine:
        await read_together(engine, prompts, max_tokens=2)

        assert engine.stats().cached_prompt_tokens == 7 * 64


@pytest.mark.parametrize("max_step_tokens", [24, 512], ids=["long", "packed"])
async def test_scores_of_questions_with_the_same_beginning_are_those_of_plain_passes(
    checkpoint: str, max_step_tokens: int
) -> None:
    prompts = [f"{make_prompt(50)} w{n}" for n in range(4)]
    choices = ("w4", "w5 w6 w7")
    async with running(checkpoint, AS_IT_IS, max_step_tokens=max_step_tokens) as engine:
        scores = [
            await engine.score(ScoringRequest(request_id="s", prompt=prompt, choices=choices)) for prompt in prompts
        ]
        completion = await text_of(engine, prompts[0])
        num_reused = engine.stats().cached_prompt_tokens
    async with running(checkpoint) as engine:
        expected_completion = await text_of(engine, prompts[0])

    # Three questions and the completion find the beginning that the first question has read.
    assert num_reused == 4 * (50 // BLOCK_TOKENS) * BLOCK_TOKENS
    assert completion == expected_completion
    for prompt, score in zip(prompts, scores, strict=True):
        expected = [mean_logprob_plainly(checkpoint, prompt, choice) for choice in choices]
        assert score.logprobs == pytest.approx(expected, abs=1e-3)


async def test_what_broke_the_model_is_not_reused(parrot: str) -> None:
    broken = "0" * 20 + "#" + "0" * 20
    async with running(parrot) as engine:
        for _ in range(2):
            with pytest.raises(MemberError, match="not numbers"):
                await text_of(engine, broken)
            with pytest.raises(MemberError, match="not numbers"):
                await engine.score(ScoringRequest(request_id="s", prompt=broken, choices=("a",)))
        stats = engine.stats()
        await text_of(engine, "0" * 40)

    assert stats.cached_prompt_tokens == 0
    assert stats.cache_share == 0


async def test_long_readings_get_room_although_completions_keep_coming(checkpoint: str) -> None:
    options = {"max_batch": 2, "max_context": 64, "max_step_tokens": 16, "kv_cache_gib": gib(64)}
    prompts = [make_prompt(30 + n) for n in range(6)]
    async with running(checkpoint, AS_IT_IS, **options) as engine, asyncio.TaskGroup() as group:
        completions = group.create_task(read_together(engine, prompts))
        scores = group.create_task(
            engine.score(ScoringRequest(request_id="s", prompt=make_prompt(40), choices=("w1", "w2 w3")))
        )
        vectors = group.create_task(engine.embed(EmbeddingRequest(request_id="e", texts=(make_prompt(50),))))

    assert all(completions.result())
    expected = [mean_logprob_plainly(checkpoint, make_prompt(40), choice) for choice in ("w1", "w2 w3")]
    assert scores.result().logprobs == pytest.approx(expected, abs=1e-3)
    assert len(vectors.result().vectors) == 1


async def test_no_kind_of_request_starves_where_there_is_room_for_one(checkpoint: str) -> None:
    options = {"max_batch": 16, "max_context": 64, "max_step_tokens": 16, "kv_cache_gib": gib(64)}
    ended: list[str] = []

    async def note_end(kind: str, answer: Awaitable[object]) -> None:
        await answer
        ended.append(kind)

    async with running(checkpoint, AS_IT_IS, **options) as engine, asyncio.TaskGroup() as group:
        for n in range(6):
            scoring = ScoringRequest(request_id="s", prompt=make_prompt(40 + n), choices=("w1", "w2 w3"))
            group.create_task(note_end("scoring", engine.score(scoring)))
        for n in range(3):
            embedding = EmbeddingRequest(request_id="e", texts=(make_prompt(50 + n),))
            group.create_task(note_end("embedding", engine.embed(embedding)))
            group.create_task(note_end("completion", text_of(engine, make_prompt(30 + n))))

    # One of each kind, three times; then those of the kind that has more.
    assert [sorted(ended[n : n + 3]) for n in (0, 3, 6)] == [["completion", "embedding", "scoring"]] * 3


async def test_what_an_aborted_prompt_has_left_is_not_wiped(checkpoint: str, caches: list[PagedCache]) -> None:
    async with running(checkpoint, max_batch=1, max_step_tokens=8, max_context=4096) as engine:
        reading = asyncio.ensure_future(text_of(engine, make_prompt(3200)))
        while engine.stats().steps < 8:  # noqa: ASYNC110 the thread counts, it sends no event
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        await text_of(engine, "w1", max_tokens=1)
        layer = caches[-1].layers[0]

    assert isinstance(layer, PagedLayer)
    assert layer.keys is not None
    assert int(layer.keys.flatten(1).any(1).sum()) >= 8 * 8


async def test_an_aborted_request_gives_its_room_back_at_every_stage(checkpoint: str) -> None:
    request = GenerationRequest(
        request_id="g", prompt=make_prompt(40), parameters=GenerationParameters(max_tokens=200, stop=())
    )
    async with running(checkpoint, max_batch=4, max_step_tokens=16) as engine:
        streams = [engine.generate(replace(request, request_id=str(n))) for n in range(6)]
        tasks = [asyncio.ensure_future(anext(stream)) for stream in streams]
        await tasks[0]
        assert engine.stats().cache_share > 0
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for stream in streams:
            await stream.aclose()
        last = (await read(engine, "w1", max_tokens=1))[-1]

        assert last.completion_tokens == 1
        assert engine.stats().cache_share == 0
