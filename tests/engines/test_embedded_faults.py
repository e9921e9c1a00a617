"""Forward passes that raise: their own requests fail, and the engine ends only when it is proven to be broken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.engines.pass_faults import MAX_FAULTS_IN_A_ROW, PassFaults
from ensemble.errors import MemberError
from ensemble.generation import EmbeddingRequest, ScoringRequest
from tests.engines.embedded_runs import make_prompt, read_together, running, text_of
from tests.engines.fused_runs import encode_plainly
from tests.engines.tiny_checkpoints import PARROT_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

SCORING = ScoringRequest(request_id="s", prompt="w1 w2", choices=("w3", "w4 w5"))
LONG_SCORING = ScoringRequest(request_id="s", prompt=make_prompt(60), choices=("w3", "w4 w5"))


def out_of_memory(*_: object, **__: object) -> torch.Tensor:
    raise RuntimeError("out of memory, say")


def failing_at(number: int, run: Callable[..., Any]) -> Callable[..., Any]:
    """Make a pass that fails once, when it is called for that time."""
    calls = iter(range(1, 10**6))

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        return out_of_memory() if next(calls) == number else run(*args, **kwargs)

    return fail_once


async def test_a_decoding_step_that_fails_fails_its_completions_and_nothing_else(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [make_prompt(length) for length in (3, 9)]
    async with running(checkpoint) as engine:
        expected = await read_together(engine, prompts)
        monkeypatch.setattr(ForwardPasses, "step", failing_at(4, ForwardPasses.step))
        outcomes = await asyncio.gather(*(text_of(engine, prompt) for prompt in prompts), return_exceptions=True)  # noqa: TID251 the exceptions are the point
        again = await read_together(engine, prompts)
        await engine.check_health()
        stats = engine.stats()

    assert all(isinstance(outcome, MemberError) for outcome in outcomes)
    assert "the forward pass failed: RuntimeError: out of memory, say" in str(outcomes[0])
    assert again == expected
    assert (stats.running_requests, stats.waiting_requests, stats.cache_share) == (0, 0, 0)


@pytest.mark.parametrize("failing", ["read", "step"])
async def test_a_pass_that_writes_nan_and_fails_leaves_none_to_the_next(
    parrot: str, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    run = getattr(ForwardPasses, failing)
    broken = encode_plainly(parrot, "#")
    fed = broken if failing == "step" else [Segment.of_prompt(8 * broken)]

    def break_and_fail(passes: ForwardPasses, _: object, *places: Any) -> torch.Tensor:
        monkeypatch.setattr(ForwardPasses, failing, run)
        assert bool(run(passes, fed, *places).isnan().all())
        return out_of_memory()

    async with running(parrot) as engine:
        monkeypatch.setattr(ForwardPasses, failing, break_and_fail)
        with pytest.raises(MemberError, match="out of memory, say"):
            await text_of(engine, "00000a")
        # The short request gets the place of the one that failed, and stands beside a longer one.
        texts = await read_together(engine, ["a", "0" * 50 + "a"])

    assert texts == [PARROT_TEXT[1:]] * 2


async def test_a_reading_that_fails_gives_its_room_back(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(checkpoint, max_step_tokens=16) as engine:
        expected = (await engine.score(SCORING)).logprobs
        for request in (SCORING, LONG_SCORING):
            monkeypatch.setattr(ForwardPasses, "read", failing_at(1, ForwardPasses.read))
            with pytest.raises(MemberError, match="out of memory, say"):
                await engine.score(request)
            await engine.score(SCORING)  # So the check of the model is over too.
        monkeypatch.setattr(ForwardPasses, "read_states", failing_at(2, ForwardPasses.read_states))
        with pytest.raises(MemberError, match="out of memory, say"):
            await engine.embed(EmbeddingRequest(request_id="e", texts=("w1", make_prompt(60))))
        scores = await engine.score(SCORING)

        assert scores.logprobs == pytest.approx(expected, abs=1e-5)
        assert engine.stats().cache_share == 0
        assert engine.stats().running_requests == 0


async def test_a_model_that_reads_nothing_any_more_ends_its_engine(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(checkpoint) as engine:
        monkeypatch.setattr(ForwardPasses, "read", out_of_memory)
        for _ in range(MAX_FAULTS_IN_A_ROW):
            await engine.check_health()
            with pytest.raises(MemberError, match="the forward pass failed: RuntimeError: out of memory, say"):
                await text_of(engine, "w1")
        with pytest.raises(MemberError, match="the engine failed: RuntimeError: out of memory, say"):
            await text_of(engine, "w1")
        with pytest.raises(MemberError, match="the engine failed"):
            await engine.check_health()


def test_a_pass_that_goes_well_forgives_the_failures_before_it() -> None:
    faults = PassFaults("m", out_of_memory)
    for _ in range(3):
        for _ in range(MAX_FAULTS_IN_A_ROW - 1):
            faults.check_model()
        faults.note_success()

    for _ in range(MAX_FAULTS_IN_A_ROW - 1):
        faults.check_model()
    with pytest.raises(RuntimeError, match="out of memory, say"):
        faults.check_model()
