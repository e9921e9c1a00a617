"""Embeddings of the embedded engine against a plain forward pass."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ensemble.errors import MemberRefusedError
from ensemble.generation import EmbeddingRequest
from tests.engines.embedded_runs import make_prompt, read, running

TEXTS = ("w1 w2 w3", make_prompt(40), "w7", make_prompt(23))


def embed_plainly(checkpoint: str, text: str) -> list[float]:
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    with torch.inference_mode():
        states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[-1][0]
    mean = states.double().mean(0)
    return list((mean / mean.norm()).tolist())


@pytest.mark.parametrize("max_step_tokens", [512, 16], ids=["in_one_pass", "in_pieces"])
async def test_a_vector_is_the_normalised_mean_of_the_last_hidden_states(checkpoint: str, max_step_tokens: int) -> None:
    async with running(checkpoint, max_step_tokens=max_step_tokens) as engine:
        async with asyncio.TaskGroup() as group:
            embedding = group.create_task(engine.embed(EmbeddingRequest(request_id="e", texts=TEXTS)))
            beside = group.create_task(engine.embed(EmbeddingRequest(request_id="f", texts=TEXTS[:1])))
            group.create_task(read(engine, "w5"))
        stats = engine.stats()

    for text, vector in zip(TEXTS, embedding.result().vectors, strict=True):
        assert vector == pytest.approx(embed_plainly(checkpoint, text), abs=1e-4)
    assert beside.result().vectors[0] == pytest.approx(embedding.result().vectors[0], abs=1e-4)
    assert (stats.finished_requests, stats.running_requests) == (3, 0)


async def test_cancelling_between_pieces_takes_the_request_out_and_the_next_is_served(checkpoint: str) -> None:
    long = EmbeddingRequest(request_id="e", texts=(make_prompt(200),) * 8)
    async with running(checkpoint, max_step_tokens=8) as engine:
        task = asyncio.create_task(engine.embed(long))
        while engine.stats().steps < 2:  # noqa: ASYNC110 - the engine's thread counts, and sets no event
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        vector = (await engine.embed(EmbeddingRequest(request_id="f", texts=TEXTS[3:]))).vectors[0]
        stats = engine.stats()

    assert vector == pytest.approx(embed_plainly(checkpoint, TEXTS[3]), abs=1e-4)
    assert (stats.aborted_requests, stats.finished_requests, stats.running_requests) == (1, 1, 0)
    assert stats.max_steps_to_abort <= 1


@pytest.mark.parametrize("texts", [(), ("w1", " "), ("w1 " * 300,)], ids=["none", "empty", "too_long"])
async def test_what_cannot_be_embedded_is_refused(checkpoint: str, texts: tuple[str, ...]) -> None:
    async with running(checkpoint) as engine:
        with pytest.raises(MemberRefusedError):
            await engine.embed(EmbeddingRequest(request_id="e", texts=texts))

        assert engine.stats().running_requests == 0
