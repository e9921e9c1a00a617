"""The vLLM engine where characters are cut, logits break and processes die; the model says what it is told to say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psutil
import pytest
import pytest_asyncio

from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import MemberError
from ensemble.generation import FinishReason, GenerationParameters, GenerationRequest, ScoringRequest
from tests.engines.tiny_checkpoints import PARROT_TEXT, save_parrot
from tests.engines.vllm_runs import (
    HEAD_DIM,
    NEEDS_VLLM,
    START_TIMEOUT,
    find_vllms,
    read_chunks,
    read_text,
    running_vllm,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ensemble.engines.vllm_engine import VllmEngine

pytestmark = [pytest.mark.vllm, pytest.mark.slow, NEEDS_VLLM, START_TIMEOUT, pytest.mark.asyncio(loop_scope="module")]

NOTICED_S = 120.0
"""vLLM looks after its processes; on a busy machine that takes a moment."""


@pytest.fixture(scope="module")
def others() -> set[psutil.Process]:
    """Processes of engines that other tests share, and that are none of these tests' business."""
    return find_vllms()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parrot(
    others: set[psutil.Process],  # noqa: ARG001 - looked for before this one starts
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[VllmEngine]:
    """Run one engine for all of these tests; the last of them kills its processes."""
    checkpoint = save_parrot(tmp_path_factory.mktemp("parrot"), PARROT_TEXT, broken_by="#", head_dim=HEAD_DIM)
    async with running_vllm(checkpoint, PromptFormat(score_template="{prompt}")) as engine:
        yield engine


async def test_characters_that_span_tokens_are_never_cut(parrot: VllmEngine) -> None:
    chunks = await read_chunks(parrot, "a")
    cut = await read_chunks(parrot, "a", max_tokens=2)

    assert "".join(chunk.text for chunk in chunks) == PARROT_TEXT[1:]
    assert chunks[-1].finish_reason is FinishReason.STOP
    # b and half of é: two tokens, one character.
    assert "".join(chunk.text for chunk in cut) == "b"
    assert (cut[-1].finish_reason, cut[-1].completion_tokens) == (FinishReason.LENGTH, 2)


async def test_stop_strings_are_found_across_tokens_and_never_shown_in_part(parrot: VllmEngine) -> None:
    chunks = await read_chunks(parrot, "a", stop=("€🦜z", "never"))

    assert "".join(chunk.text for chunk in chunks) == "bé"
    assert chunks[-1].finish_reason is FinishReason.STOP


async def test_logits_that_are_not_numbers_leave_what_runs_beside_them_alone(parrot: VllmEngine) -> None:
    # In blocks that had no such logits yet.
    async with asyncio.TaskGroup() as group:
        sound = group.create_task(read_text(parrot, "a"))
        with pytest.raises(MemberError, match="not numbers"):
            await read_text(parrot, "#")

    assert sound.result() == PARROT_TEXT[1:]


@pytest.mark.parametrize("needs_logprob", [True, False])
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_logits_that_are_not_numbers_are_an_error_however_a_completion_is_asked_for(
    parrot: VllmEngine, *, is_streamed: bool, needs_logprob: bool
) -> None:
    request = GenerationRequest(
        request_id="r",
        prompt="#",
        parameters=GenerationParameters(max_tokens=4),
        is_streamed=is_streamed,
        needs_logprob=needs_logprob,
    )

    with pytest.raises(MemberError, match="not numbers"):
        [chunk async for chunk in parrot.generate(request)]


async def test_logits_that_are_not_numbers_are_an_error_and_never_a_text_or_a_score(parrot: VllmEngine) -> None:
    with pytest.raises(MemberError, match="not numbers"):
        await read_text(parrot, "#")
    with pytest.raises(MemberError, match="not numbers"):
        await parrot.score(ScoringRequest(request_id="s", prompt="#", choices=("a",)))
    await parrot.check_health()


async def test_whoever_gets_the_blocks_of_logits_that_are_not_numbers_gets_an_error_and_never_a_wrong_text(
    parrot: VllmEngine,
) -> None:
    with pytest.raises(MemberError, match="not numbers"):
        await read_text(parrot, "#")

    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(await read_text(parrot, "a"))
        except MemberError as error:
            outcomes.append(error.problem)

    assert set(outcomes) <= {PARROT_TEXT[1:], "the model gave logits that are not numbers"}


async def test_an_engine_whose_logits_stay_no_numbers_is_not_healthy(parrot: VllmEngine) -> None:
    from ensemble.engines.vllm_engine import MAX_BROKEN  # noqa: PLC0415 - where vLLM is not installed, tests skip

    for _ in range(MAX_BROKEN):
        with pytest.raises(MemberError, match="not numbers"):
            await read_text(parrot, "#")

    with pytest.raises(MemberError, match=r"not numbers, \d+ requests in a row"):
        await parrot.check_health()


async def test_when_its_processes_die_requests_and_health_say_so_and_closing_leaves_none(
    parrot: VllmEngine, others: set[psutil.Process]
) -> None:
    processes = find_vllms() - others

    for process in processes:
        process.kill()
    async with asyncio.timeout(NOTICED_S):
        # Handed over before vLLM has noticed, and then after.
        for _ in range(2):
            with pytest.raises(MemberError, match="processes have ended"):
                await read_text(parrot, "a")
        with pytest.raises(MemberError, match="processes have ended"):
            await parrot.check_health()
    await parrot.close()

    assert processes
    # A zombie has ended; whoever started it has yet to notice.
    _, alive = psutil.wait_procs(processes, timeout=NOTICED_S)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert parrot.stats().running_requests == 0
