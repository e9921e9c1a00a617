"""Runs the fused engine, and a plain reference beside it: transformers' own forward passes, mixed here."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ensemble.engines.config import FusedEngineConfig
from ensemble.engines.fused import FusedEngine
from ensemble.engines.prompt_format import PromptFormat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

LINEAR, GEOMETRIC = "logit_mix_linear", "logit_mix_geometric"
WEIGHTS = (0.7, 0.3)


def fused_config(others: Sequence[str], **options: object) -> FusedEngineConfig:
    return FusedEngineConfig.model_validate(
        {"device": "cpu", "threads": 1, "max_context": 256, "others": tuple(others), **options}
    )


@asynccontextmanager
async def running_fused(
    checkpoints: Sequence[str], prompt_format: PromptFormat | None = None, **options: object
) -> AsyncIterator[FusedEngine]:
    engine = FusedEngine(
        fused_config(checkpoints[1:], **options),
        checkpoint=checkpoints[0],
        member="m",
        prompt_format=prompt_format or PromptFormat(),
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


@lru_cache(maxsize=8)
def _load_plainly(checkpoint: str) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)


def encode_plainly(checkpoint: str, text: str) -> list[int]:
    tokens: list[int] = _load_plainly(checkpoint)[1](text, add_special_tokens=False).input_ids
    return tokens


def decode_plainly(checkpoint: str, tokens: Sequence[int]) -> str:
    text: str = _load_plainly(checkpoint)[1].decode(list(tokens), skip_special_tokens=True)
    return text


def eos_of(checkpoint: str) -> int:
    eos: int = _load_plainly(checkpoint)[1].eos_token_id
    return eos


def mix_plainly(checkpoints: Sequence[str], tokens: Sequence[int], *, pooling: str, weights: Sequence[float]) -> Any:
    """Give the mixture's next-token probabilities after each token, in float64: one plain pass a checkpoint."""
    num_tokens = len(_load_plainly(checkpoints[0])[1])
    with torch.inference_mode():
        logits = [_load_plainly(checkpoint)[0](torch.tensor([list(tokens)])).logits[0] for checkpoint in checkpoints]
    probabilities = [logits_QV[:, :num_tokens].double().softmax(-1) for logits_QV in logits]
    if pooling == "linear":
        return sum(weight * p for weight, p in zip(weights, probabilities, strict=True))
    product = torch.exp(sum(weight * p.log() for weight, p in zip(weights, probabilities, strict=True)))
    return product / product.sum(-1, keepdim=True)


def complete_plainly(
    checkpoints: Sequence[str], prompt: str, num_tokens: int, *, pooling: str, weights: Sequence[float] = WEIGHTS
) -> str:
    """Complete greedily, reading everything again for each token."""
    tokens = encode_plainly(checkpoints[0], prompt)
    completion: list[int] = []
    for _ in range(num_tokens):
        mixed = mix_plainly(checkpoints, tokens + completion, pooling=pooling, weights=weights)
        token = int(mixed[-1].argmax())
        if token == eos_of(checkpoints[0]):
            break
        completion.append(token)
    text = decode_plainly(checkpoints[0], completion)
    return f" {text}" if text else ""


def mean_logprob_of_mixture(
    checkpoints: Sequence[str], prompt: str, choice: str, *, pooling: str, weights: Sequence[float] = WEIGHTS
) -> float:
    """Score one choice by one plain pass of each checkpoint."""
    prompt_tokens, choice_tokens = (encode_plainly(checkpoints[0], text) for text in (prompt, choice))
    mixed = mix_plainly(checkpoints, prompt_tokens + choice_tokens, pooling=pooling, weights=weights).log()
    start = len(prompt_tokens) - 1
    total: float = sum(mixed[start + i, token].item() for i, token in enumerate(choice_tokens))
    return total / len(choice_tokens)
