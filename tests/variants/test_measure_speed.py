"""Paces are counted from the right moment to the right one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from ensemble.engines.engine import Engine
from ensemble.errors import MemberError
from ensemble.generation import CompletionChunk, FinishReason, GenerationRequest
from ensemble.variants import measure_speed
from ensemble.variants.measure_speed import SpeedTask, measure_round


class FakeClock:
    """Time that passes when an engine says so; the processor is half as busy."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def cpu_s(self) -> float:
        return self.now_s / 2


class FakeEngine:
    """Reads a prompt of 10 tokens in a second, one after another; then steps of a quarter second for all together."""

    def __init__(self, clock: FakeClock, *, batch: int, ends_after: int) -> None:
        self._clock = clock
        self._ends_after = ends_after
        self._step = asyncio.Barrier(batch)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[CompletionChunk]:
        length = min(request.parameters.max_tokens, self._ends_after)
        self._clock.now_s += 1.0
        for count in range(1, length + 1):
            if count > 1 and await self._step.wait() == 0:
                self._clock.now_s += 0.25
            reason = FinishReason.LENGTH if count == length else None
            yield CompletionChunk(
                text="x", completion_tokens=count, prompt_tokens=10, logprob=0.0, finish_reason=reason
            )


async def measure(monkeypatch: pytest.MonkeyPatch, *, batch: int, ends_after: int = 10_000) -> Any:
    clock = FakeClock()
    monkeypatch.setattr(measure_speed, "time", clock)
    monkeypatch.setattr(measure_speed, "read_cpu_s", clock.cpu_s)
    engine = FakeEngine(clock, batch=batch, ends_after=ends_after)
    return await measure_round(cast("Engine", engine), SpeedTask(batches=(batch,), max_tokens=9))


@pytest.mark.parametrize("batch", [1, 4])
async def test_reading_counts_prompt_tokens_and_writing_those_after_all_have_begun(
    monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    measured = await measure(monkeypatch, batch=batch)

    prefill, decode = measured.pace_by_task["prefill", batch], measured.pace_by_task["decode", batch]
    assert prefill.tokens_per_s == pytest.approx(10.0)
    assert prefill.tokens_per_cpu_s == pytest.approx(20.0)
    # A step of a quarter second gives every completion a token.
    assert decode.tokens_per_s == pytest.approx(4.0 * batch)
    assert decode.tokens_per_cpu_s == pytest.approx(8.0 * batch)
    assert measured.written_share == 1.0


async def test_completions_that_end_with_their_first_token_have_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = await measure(monkeypatch, batch=2, ends_after=1)

    assert ("decode", 2) not in measured.pace_by_task
    assert measured.written_share == pytest.approx(1 / 9)


async def test_an_engine_that_fails_is_told_as_it_says_it() -> None:
    class Failing:
        async def generate(self, _: GenerationRequest) -> AsyncGenerator[CompletionChunk]:
            raise MemberError("m", "it broke")
            yield

    with pytest.raises(MemberError, match="it broke"):
        await measure_round(cast("Engine", Failing()), SpeedTask())


def test_prompts_begin_differently_and_have_as_many_words_as_wanted() -> None:
    prompts = SpeedTask(prompt_words=40).prompts(16)

    assert len({prompt.split(":")[0] for prompt in prompts}) == 16
    assert {len(prompt.split()) for prompt in prompts} == {40}
