"""A model that was cut in every way answers in vLLM as it does in transformers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from ensemble.compression.compress import compress
from ensemble.compression.recipe import Recipe
from tests.engines.embedded_runs import generate_plainly, make_prompt
from tests.engines.tiny_checkpoints import NUM_WORDS, save_random_llama
from tests.engines.vllm_runs import HEAD_DIM, NEEDS_VLLM, START_TIMEOUT, read_texts, running_vllm

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = Recipe.model_validate(
    {
        "steps": [
            {"type": "prune_layers", "num_layers": 1},
            {"type": "prune_heads"},
            {"type": "prune_hidden", "width": 48},
            {"type": "prune_width", "width": 96, "multiple_of": 32},
            {"type": "refit"},
        ],
        "calibration": {"window_tokens": 64},
    }
)


@pytest.mark.vllm
@NEEDS_VLLM
@START_TIMEOUT
async def test_vllm_completes_as_transformers_does(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "head_dim": HEAD_DIM}
    source = save_random_llama(tmp_path / "source", **sizes)
    generator = random.Random(0)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{generator.randrange(NUM_WORDS)}" for _ in range(3000)))
    cut = str(tmp_path / "cut")
    report = compress(source, RECIPE, tmp_path / "cut", calibration_texts=[text], cache_dir=tmp_path / "cache")
    prompts = [make_prompt(length) for length in (1, 17, 40)]

    async with running_vllm(cut) as vllm:
        completions = await read_texts(vllm, prompts)

    assert completions == [generate_plainly(cut, prompt, 24) for prompt in prompts]
    assert report.output_bytes < 0.6 * report.source_bytes
