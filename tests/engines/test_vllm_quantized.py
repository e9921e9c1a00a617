"""Checkpoints that a recipe quantised, on vLLM, against the weights that their codes stand for."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ensemble.checkpoints import load_checkpoint
from ensemble.compression.compress import compress
from ensemble.compression.recipe import Recipe
from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import ScoringRequest
from tests.engines.embedded_runs import make_prompt
from tests.engines.tiny_checkpoints import NUM_WORDS, save_random_llama
from tests.engines.vllm_runs import HEAD_DIM, NEEDS_VLLM, START_TIMEOUT, running_vllm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vllm, NEEDS_VLLM, START_TIMEOUT, pytest.mark.asyncio(loop_scope="session")]

# vLLM's kernels for 4-bit weights take outputs in multiples of 32.
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": HEAD_DIM,
}
CHOICES = ("w4", "w5 w6 w7", "w8 w9 w10 w11 w12 w13")
PROMPTS = tuple(make_prompt(length) for length in (5, 19, 64))


def write_words(path: Path) -> Path:
    words = random.Random(0)
    path.write_text(" ".join(f"w{words.randrange(NUM_WORDS)}" for _ in range(3_000)))
    return path


@torch.no_grad()
def score_plainly(folder: Path | str, prompt: str, choice: str) -> float:
    checkpoint = load_checkpoint(str(folder), dtype="float32", device="cpu")
    encode: Any = checkpoint.tokenizer
    prompt_ids = encode(f"w1 {prompt} w2", add_special_tokens=False)["input_ids"]
    choice_ids = encode(choice, add_special_tokens=False)["input_ids"]
    logits_TV = checkpoint.model(torch.tensor([prompt_ids + choice_ids])).logits[0, len(prompt_ids) - 1 : -1]
    logprobs_TV = logits_TV.log_softmax(dim=-1)
    return float(logprobs_TV[range(len(choice_ids)), choice_ids].mean())


@pytest.mark.parametrize(
    ("step", "bound"),
    [
        # In bfloat16, the least that vLLM's 4-bit products on a CPU take.
        ({"type": "quantize_int4", "method": "gptq"}, 0.2),
        ({"type": "quantize_w8a8"}, 0.05),
        ({"type": "quantize_fp8"}, 0.1),
    ],
    ids=["w4a16", "w8a8", "fp8"],
)
async def test_vllm_computes_what_the_checkpoint_means(tmp_path: Path, step: dict[str, Any], bound: float) -> None:
    source = save_random_llama(tmp_path / "source", **SIZES)
    recipe = Recipe.model_validate({"steps": [step]})
    compress(source, recipe, tmp_path / "out", calibration_texts=[write_words(tmp_path / "words.txt")])

    async with running_vllm(str(tmp_path / "out"), PromptFormat(score_template="w1 {prompt} w2")) as engine:
        scored = [
            (await engine.score(ScoringRequest(request_id="s", prompt=prompt, choices=CHOICES))).logprobs
            for prompt in PROMPTS
        ]

    expected = [[score_plainly(tmp_path / "out", prompt, choice) for choice in CHOICES] for prompt in PROMPTS]
    original = [[score_plainly(source, prompt, choice) for choice in CHOICES] for prompt in PROMPTS]
    for got, wanted in zip(scored, expected, strict=True):
        assert got == pytest.approx(wanted, abs=bound)
    lost = max(
        abs(a - b) for one, other in zip(expected, original, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert lost > 2 * bound
