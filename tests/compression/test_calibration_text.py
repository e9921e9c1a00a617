"""Cutting text into what calibrates and what judges."""

from __future__ import annotations

import math

import pytest
import torch

from ensemble.compression.calibration_text import WINDOW_TOKENS, load_calibration_text, split_calibration_text
from ensemble.compression.perplexity import measure_perplexity
from tests.checkpoints.tiny_models import build_llama, build_tokenizer


def test_the_packages_own_text_has_at_least_two_thousand_tokens() -> None:
    assert len(build_tokenizer()(load_calibration_text(()))["input_ids"]) >= 2000


def test_no_token_is_in_both_parts() -> None:
    tokenizer = build_tokenizer()
    text = load_calibration_text(())

    parts = split_calibration_text(text, tokenizer)

    joined = torch.cat([parts.calibrate_WT, parts.held_out_WT]).flatten().tolist()
    assert joined == tokenizer(text)["input_ids"][: len(joined)]
    assert len(parts.held_out_WT) >= 1
    assert parts.calibrate_WT.shape[1] == WINDOW_TOKENS


def test_a_model_that_knows_nothing_is_as_surprised_as_its_vocabulary_is_large() -> None:
    model = build_llama()
    with torch.no_grad():
        model.model.norm.weight.zero_()

    perplexity = measure_perplexity(model, torch.randint(0, 500, (2, 16)))

    assert perplexity == pytest.approx(500.0, rel=1e-4)
    assert math.isfinite(perplexity)
