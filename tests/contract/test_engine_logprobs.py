"""A completion's log-probability costs an engine time, so it may leave it out where nobody needs it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ensemble.generation import CompletionChunk, GenerationParameters, GenerationRequest

if TYPE_CHECKING:
    from ensemble.engines.engine import Engine
    from tests.contract.engine_subjects import Subject

# One event loop for all: vLLM's processes, which the tests share, belong to one.
pytestmark = pytest.mark.asyncio(loop_scope="session")

NEEDED = GenerationRequest(
    request_id="r", prompt="w1 w9 w1 w9 w33", parameters=GenerationParameters(max_tokens=24), is_streamed=False
)


async def _read(engine: Engine, request: GenerationRequest) -> tuple[str, CompletionChunk]:
    chunks = [chunk async for chunk in engine.generate(request)]
    return "".join(chunk.text for chunk in chunks), replace(chunks[-1], text="", logprob=None)


async def _read_logprobs(engine: Engine, request: GenerationRequest) -> list[float | None]:
    return [chunk.logprob async for chunk in engine.generate(request)]


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_completion_is_the_same_whether_its_logprob_is_needed_or_not(
    subject: Subject, *, is_streamed: bool
) -> None:
    needed = replace(NEEDED, is_streamed=is_streamed)
    async with subject.running() as engine:
        alone = await _read(engine, needed)
        async with asyncio.TaskGroup() as group:
            # In one batch.
            beside = group.create_task(_read(engine, needed))
            unneeded = group.create_task(_read(engine, replace(needed, needs_logprob=False)))

    assert alone == beside.result() == unneeded.result()


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_logprob_that_is_not_needed_is_left_out_everywhere_or_is_the_one_that_would_be_given(
    subject: Subject, *, is_streamed: bool
) -> None:
    needed = replace(NEEDED, is_streamed=is_streamed)
    async with subject.running() as engine:
        given = await _read_logprobs(engine, needed)
        unneeded = await _read_logprobs(engine, replace(needed, needs_logprob=False))

    assert None not in given
    if subject.gives_unneeded_logprobs:
        assert unneeded[-1] == pytest.approx(given[-1], abs=1e-3)
    else:
        assert set(unneeded) == {None}
