"""A LoRA adapter on vLLM, against the checkpoint into whose weights it is merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import ScoringRequest
from tests.engines.embedded_runs import generate_plainly, make_prompt, mean_logprob_plainly
from tests.engines.tiny_checkpoints import save_random_llama
from tests.engines.vllm_runs import HEAD_DIM, NEEDS_VLLM, START_TIMEOUT, read_text, running_vllm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vllm, pytest.mark.slow, NEEDS_VLLM, START_TIMEOUT]

CHOICES = ("w4", "w5 w6 w7", "w8 w9")
RANK = 4


def save_adapter(checkpoint: str, folder: Path) -> tuple[str, str]:
    """Save a random adapter, and the checkpoint that it makes of another one when it is merged."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - it takes seconds to import

    torch.manual_seed(11)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted: Any = get_peft_model(LlamaForCausalLM.from_pretrained(checkpoint), config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            # Zeros until they are trained, and then the adapter would change nothing.
            if "lora_B" in name:
                weight.normal_(std=0.3)
    adapter, merged = str(folder / "adapter"), str(folder / "merged")
    adapted.save_pretrained(adapter)
    adapted.merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(merged)
    return adapter, merged


async def test_every_request_goes_through_the_adapter(tmp_path: Path) -> None:
    checkpoint = save_random_llama(tmp_path / "llama", head_dim=HEAD_DIM)
    adapter, merged = save_adapter(checkpoint, tmp_path)
    prompt = make_prompt(12)

    async with running_vllm(checkpoint, PromptFormat(score_template="{prompt}"), lora=adapter) as engine:
        text = await read_text(engine, prompt, max_tokens=12)
        scores = await engine.score(ScoringRequest(request_id="s", prompt=prompt, choices=CHOICES))

    plain, expected = ([mean_logprob_plainly(one, prompt, c) for c in CHOICES] for one in (checkpoint, merged))
    assert max(abs(a - b) for a, b in zip(plain, expected, strict=True)) > 0.1
    assert scores.logprobs == pytest.approx(expected, abs=1e-3)
    assert text == generate_plainly(merged, prompt, 12)
