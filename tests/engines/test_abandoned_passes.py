"""A pass that nobody waits for any more is left between two layers; one that somebody waits for is not."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from ensemble.engines.engine import Engine
from ensemble.engines.paged_cache import PagedCache, PagedLayer
from ensemble.engines.pass_faults import MAX_FAULTS_IN_A_ROW
from ensemble.generation import GenerationParameters, GenerationRequest, ScoringRequest
from tests.engines.embedded_runs import make_prompt, running, text_of
from tests.engines.fused_runs import running_fused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from ensemble.engines.block_pool import CacheRow

GENEROUS_S = 30.0
MANY_TOKENS = 1_900
"""So many that one that is aborted still runs when the other one comes, however late the machine makes that."""
MAX_CONTEXT = 2_048
KINDS = ("embedded", "fused", "speculative")


@dataclass(slots=True, kw_only=True)
class HeldLayer:
    """Holds up the first layer of the first pass of so many rows, once it has run, and counts those that run later.

    With ``is_broken`` that layer leaves no numbers in the cache; with ``fails`` it raises.
    """

    num_rows: int = 0
    is_first: bool = False
    is_held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    is_broken: bool = False
    fails: bool = False
    num_later: int = 0

    def after_layer(self, cached: PagedLayer) -> None:
        """Hold up the pass, or count."""
        if self.is_first and not self.is_held.is_set():
            if self.is_broken:
                cast("torch.Tensor", cached.keys)[cached._plan.write_slots] = torch.nan
            self.is_held.set()
            assert self.go_on.wait(GENEROUS_S)
            if self.fails:
                raise RuntimeError("this layer failed")
        elif self.is_held.is_set():
            self.num_later += 1

    async def wait_until_held(self) -> None:
        """Wait until a layer is held up."""
        assert await asyncio.to_thread(self.is_held.wait, GENEROUS_S)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldLayer:
    layer, update = HeldLayer(), PagedLayer.update

    def watched(self: PagedLayer, *states: Any, **more: Any) -> Any:
        seen = update(self, *states, **more)
        layer.after_layer(self)
        return seen

    def noticed(plan: Callable[..., Any]) -> Callable[..., Any]:
        def notice(cache: PagedCache, rows: Sequence[CacheRow], *more: Any) -> Any:
            layer.is_first = len(rows) == layer.num_rows
            return plan(cache, rows, *more)

        return notice

    monkeypatch.setattr(PagedLayer, "update", watched)
    for plan in (PagedCache.plan_step, PagedCache.plan_read):
        monkeypatch.setattr(PagedCache, plan.__name__, noticed(plan))
    return layer


@pytest.fixture(params=KINDS)
async def engine(request: pytest.FixtureRequest, checkpoint: str) -> AsyncIterator[Any]:
    if request.param == "embedded":
        async with running(checkpoint, max_context=MAX_CONTEXT) as one:
            yield one
        return
    method = "speculative" if request.param == "speculative" else "logit_mix_linear"
    async with running_fused([checkpoint, checkpoint], method=method, max_context=MAX_CONTEXT) as one:
        yield one


async def begin(engine: Engine, length: int, *, max_tokens: int = MANY_TOKENS) -> tuple[AsyncIterator[Any], str]:
    """Begin a completion, and read its first chunk."""
    parameters = GenerationParameters(max_tokens=max_tokens)
    stream = engine.generate(GenerationRequest(request_id="r", prompt=make_prompt(length), parameters=parameters))
    return stream, (await anext(stream)).text


async def test_a_step_whose_requests_are_all_aborted_is_left_between_two_layers(engine: Any, held: HeldLayer) -> None:
    expected = await text_of(engine, make_prompt(7))
    held.num_rows = 2
    streams = [(await begin(engine, length))[0] for length in (7, 11)]
    await held.wait_until_held()
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    held.go_on.set()
    async with asyncio.timeout(GENEROUS_S):
        while (stats := engine.stats()).running_requests or stats.cache_share:  # noqa: ASYNC110 - the engine's thread sets no event
            await asyncio.sleep(0.001)
    num_later = held.num_later
    again = await text_of(engine, make_prompt(7))
    await engine.check_health()

    assert num_later == 0
    assert stats.aborted_requests == 2
    assert again == expected


async def test_a_step_that_one_request_waits_for_goes_on(engine: Any, held: HeldLayer) -> None:
    expected = await text_of(engine, make_prompt(11), max_tokens=150)
    held.num_rows = 2
    aborted, _ = await begin(engine, 7)
    kept, text = await begin(engine, 11, max_tokens=150)
    await held.wait_until_held()
    await aborted.aclose()  # type: ignore[attr-defined]
    held.go_on.set()
    rest = [chunk.text async for chunk in kept]

    assert held.num_later > 0
    assert text + "".join(rest) == expected


async def test_a_prompt_that_is_read_for_nobody_is_not_reused(checkpoint: str, held: HeldLayer) -> None:
    request = ScoringRequest(request_id="s", prompt=make_prompt(60), choices=("w3", "w4 w5"))
    async with running(checkpoint) as engine:
        reference = await engine.score(request)
    async with running(checkpoint) as engine:
        held.num_rows = 1
        scoring = asyncio.create_task(engine.score(request))
        await held.wait_until_held()
        scoring.cancel()
        await asyncio.wait([scoring])
        held.go_on.set()
        again = await engine.score(request)
        stats = engine.stats()

    assert again == reference
    assert (stats.aborted_requests, stats.cached_prompt_tokens) == (1, 0)


async def test_numbers_that_are_none_do_not_outlast_the_pass_that_was_left(engine: Any, held: HeldLayer) -> None:
    lengths = (3, 45)
    expected = [await text_of(engine, make_prompt(length)) for length in lengths]
    held.num_rows, held.is_broken = 2, True
    streams = [(await begin(engine, length))[0] for length in (7, 11)]
    await held.wait_until_held()
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    held.go_on.set()

    again = await asyncio.gather(*(text_of(engine, make_prompt(length)) for length in lengths))  # noqa: TID251

    assert list(again) == expected


async def test_passes_that_fail_for_nobody_do_not_count_against_the_model(checkpoint: str, held: HeldLayer) -> None:
    request = ScoringRequest(request_id="s", prompt=make_prompt(60), choices=("w3", "w4 w5"))
    async with running(checkpoint) as engine:
        held.num_rows, held.fails = 1, True
        for _ in range(MAX_FAULTS_IN_A_ROW + 1):
            held.is_held.clear()
            held.go_on.clear()
            scoring = asyncio.create_task(engine.score(request))
            await held.wait_until_held()
            scoring.cancel()
            await asyncio.wait([scoring])
            held.go_on.set()
            async with asyncio.timeout(GENEROUS_S):
                while engine.stats().running_requests:  # noqa: ASYNC110 - the engine's thread sets no event
                    await asyncio.sleep(0.001)

        await engine.check_health()
        assert len((await engine.score(request)).logprobs) == 2
