"""Completions that vLLM holds to a structure, whatever the model would have said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from pydantic import ValidationError

from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import ConfigError
from ensemble.generation import FinishReason, ScoringRequest
from tests.engines.embedded_runs import make_prompt, mean_logprob_plainly
from tests.engines.tiny_checkpoints import save_random_llama
from tests.engines.vllm_runs import (
    HEAD_DIM,
    NEEDS_VLLM,
    START_TIMEOUT,
    SharedVllm,
    read_chunks,
    read_texts,
    running_vllm,
    vllm_config,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from ensemble.engines.engine import Engine

PROMPTS = [make_prompt(length) for length in (1, 7, 30, 61)]
VLLM = [pytest.mark.vllm, NEEDS_VLLM, START_TIMEOUT, pytest.mark.asyncio(loop_scope="session")]


def on_vllm(test: Any) -> Any:
    """Mark a test that runs on this module's vLLM."""
    for mark in VLLM:
        test = mark(test)
    return test


async def read_words(engine: Engine, prompts: Sequence[str], **parameters: Any) -> set[str]:
    """Read several completions, without the blank that goes before a word."""
    return {text.strip() for text in await read_texts(engine, prompts, **parameters)}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def structuring_vllm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SharedVllm]:
    """Run vLLM's processes with the tokenizer that grammars need."""
    checkpoint = save_random_llama(tmp_path_factory.mktemp("structuring-vllm"), head_dim=HEAD_DIM)
    async with running_vllm(checkpoint, structured={"choice": ["w1"]}) as engine:
        shared = SharedVllm(engine, checkpoint)
        yield shared
        shared.forget()


@on_vllm
@pytest.mark.parametrize(
    "structured", [{"choice": ["w1", "w2"]}, {"regex": "w[12]"}, {"grammar": 'root ::= "w1" | "w2"'}]
)
async def test_every_completion_is_one_that_the_structure_allows(
    structuring_vllm: SharedVllm, structured: Mapping[str, Any]
) -> None:
    async with structuring_vllm.engine() as engine:
        free = await read_words(engine, PROMPTS)
    async with structuring_vllm.engine(structured=structured) as engine:
        held = await read_words(engine, PROMPTS)
        drawn = await read_words(engine, PROMPTS * 10, temperature=1.0)
        (last,) = (chunk for chunk in await read_chunks(engine, PROMPTS[0]) if chunk.finish_reason is not None)

    assert not free & {"w1", "w2"}
    assert held <= {"w1", "w2"}
    assert drawn == {"w1", "w2"}
    assert last.finish_reason is FinishReason.STOP


@on_vllm
async def test_choices_are_scored_as_without_a_structure(structuring_vllm: SharedVllm) -> None:
    prompt_format = PromptFormat(score_template="{prompt}")
    async with structuring_vllm.engine(structured={"choice": ["w1"]}, prompt_format=prompt_format) as engine:
        scores = await engine.score(ScoringRequest(request_id="s", prompt="w7", choices=("w4", "w5 w6")))

    expected = [mean_logprob_plainly(structuring_vllm.checkpoint, "w7", choice) for choice in ("w4", "w5 w6")]
    assert scores.logprobs == pytest.approx(expected, abs=1e-3)


@on_vllm
@pytest.mark.parametrize("structured", [{"regex": "w4["}, {"json": "no schema"}, {"choice": []}, {"grammar": "root"}])
async def test_a_structure_that_vllm_does_not_take_is_told_at_the_start(
    structuring_vllm: SharedVllm, structured: Mapping[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"^engine\.structured: vLLM refuses the request"):
        async with structuring_vllm.engine(structured=structured):
            pass


@pytest.mark.parametrize(
    "structured",
    [
        *({"choices": ["a"]}, {"choice": ["a"], "regex": "a"}),
        *({"choice": "abc"}, {"choice": [True]}, {"regex": 5}, {"grammar": None}, {"json": ["a"]}),
    ],
)
def test_a_structure_is_one_of_four_things(structured: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError, match="structured"):
        vllm_config(structured=structured)
