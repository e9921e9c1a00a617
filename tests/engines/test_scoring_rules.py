"""Scoring rules against plain forward passes, one choice at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ensemble.engines import scoring_rule
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import MemberRefusedError
from ensemble.generation import ScoringRequest
from tests.engines.embedded_runs import running

PROMPT, CHOICES = "w1 w2 w3", ("w4", "w5 w6 w7", "w8 w9")
FORMAT = {"score_template": "w50 {prompt} w51", "pmi_template": "w51 w52"}


def build_format(rule: str) -> PromptFormat:
    return PromptFormat.model_validate({"scoring": rule, **FORMAT})


def sum_plainly(checkpoint: str, prompt: str, choice: str) -> float:
    """Add a choice's log-probabilities from one forward pass over prompt and choice."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    before, after = tokenizer(prompt)["input_ids"], tokenizer(choice, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logprobs = model(torch.tensor([before + after])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[len(before) - 1 + i, token]) for i, token in enumerate(after))


def expect(checkpoint: str, rule: str) -> list[float]:
    sums = [sum_plainly(checkpoint, "w50 w1 w2 w3 w51", choice) for choice in CHOICES]
    if rule == "sum_logprob":
        return sums
    if rule == "mean_logprob":
        return [total / len(choice.split()) for total, choice in zip(sums, CHOICES, strict=True)]
    priors = [sum_plainly(checkpoint, "w51 w52", choice) for choice in CHOICES]
    return [total - prior for total, prior in zip(sums, priors, strict=True)]


@pytest.mark.parametrize("rule", ["mean_logprob", "sum_logprob", "pmi"])
@pytest.mark.parametrize("max_step_tokens", [512, 8], ids=["in_one_pass", "in_pieces"])
async def test_each_rule_gives_what_plain_forward_passes_give(checkpoint: str, rule: str, max_step_tokens: int) -> None:
    request = ScoringRequest(request_id="s", prompt=PROMPT, choices=CHOICES)
    async with running(checkpoint, build_format(rule), max_step_tokens=max_step_tokens) as engine:
        scores = await engine.score(request)

    assert scores.logprobs == pytest.approx(expect(checkpoint, rule), abs=1e-3)
    assert scores.num_tokens == (1, 3, 2)


async def test_known_terms_are_not_read_again_and_change_nothing(checkpoint: str) -> None:
    request = ScoringRequest(request_id="s", prompt=PROMPT, choices=CHOICES)
    other = ScoringRequest(request_id="t", prompt="w9", choices=("w5 w6 w7", "w77 w78", "w77 w78"))
    async with running(checkpoint, build_format("pmi")) as engine:
        first = await engine.score(request)
        async with asyncio.TaskGroup() as group:
            again = group.create_task(engine.score(request))
            mixed = group.create_task(engine.score(other))

    assert again.result().logprobs == pytest.approx(first.logprobs, abs=1e-4)
    assert mixed.result().logprobs[1] == pytest.approx(mixed.result().logprobs[2], abs=1e-4)


async def test_forgotten_terms_are_read_again(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring_rule, "MAX_PRIORS", 1)
    request = ScoringRequest(request_id="s", prompt=PROMPT, choices=CHOICES)
    async with running(checkpoint, build_format("pmi")) as engine:
        first = await engine.score(request)
        second = await engine.score(request)

    assert second.logprobs == pytest.approx(first.logprobs, abs=1e-4)


async def test_a_choice_that_does_not_fit_after_the_pmi_prompt_is_refused(checkpoint: str) -> None:
    prompt_format = PromptFormat(scoring="pmi", score_template="{prompt}", pmi_template="w1 " * 14)
    async with running(checkpoint, prompt_format, max_context=16) as engine:
        with pytest.raises(MemberRefusedError, match="pmi needs 17 tokens"):
            await engine.score(ScoringRequest(request_id="s", prompt="w1", choices=("w2", "w3 w4 w5")))
