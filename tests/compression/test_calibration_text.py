"""Cutting text into what calibrates and what judges."""

from __future__ import annotations

import math

import pytest
import torch

from ensemble.compression.calibration_options import WINDOW_TOKENS, CalibrationOptions
from ensemble.compression.calibration_sources import CalibrationSource, read_own_text
from ensemble.compression.calibration_text import MAX_HELD_OUT_WINDOWS, CalibrationText, split_calibration_text
from ensemble.compression.perplexity import measure_perplexity
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_llama, build_tokenizer

WORDS = read_own_text().split()


def build_source(num_words: int, *, name: str = "text", start: int = 0) -> CalibrationSource:
    words = [WORDS[(start + index) % len(WORDS)] for index in range(num_words)]
    return CalibrationSource(name=name, text=" ".join(words))


def split(num_words: int, **options: int) -> CalibrationText:
    return split_calibration_text([build_source(num_words)], build_tokenizer(), CalibrationOptions(**options))


def cut_in_order(text: str) -> list[list[int]]:
    tokens = build_tokenizer()(text)["input_ids"]
    return [tokens[start : start + WINDOW_TOKENS] for start in range(0, len(tokens) - WINDOW_TOKENS + 1, WINDOW_TOKENS)]


def test_the_packages_own_text_has_at_least_two_thousand_tokens() -> None:
    assert len(build_tokenizer()(read_own_text())["input_ids"]) >= 2000


def test_the_last_quarter_judges_and_the_rest_calibrates() -> None:
    source = CalibrationSource(name="own", text=read_own_text())

    parts = split_calibration_text([source], build_tokenizer())

    windows = cut_in_order(source.text)
    calibrating = parts.calibrate_WT.tolist()
    # What is over in either part makes no window, so the two need not meet at a window's border.
    assert sorted(calibrating) == sorted(windows[: len(calibrating)])
    tokens = build_tokenizer()(source.text)["input_ids"]
    num_held_out = len(tokens) // 4 // WINDOW_TOKENS * WINDOW_TOKENS
    assert parts.held_out_WT.flatten().tolist() == tokens[len(tokens) - num_held_out :]
    assert len(calibrating) * WINDOW_TOKENS <= len(tokens) - num_held_out


def test_the_seed_decides_which_windows_and_their_order_but_never_what_is_held_out() -> None:
    first, again, other = (split(6000, num_windows=8, seed=seed) for seed in (1, 1, 2))

    assert torch.equal(first.calibrate_WT, again.calibrate_WT)
    assert {tuple(window) for window in first.calibrate_WT.tolist()} != {
        tuple(window) for window in other.calibrate_WT.tolist()
    }
    assert len(first.calibrate_WT) == len(other.calibrate_WT) == 8
    assert torch.equal(first.held_out_WT, other.held_out_WT)


def test_what_is_held_out_does_not_depend_on_the_length_of_windows() -> None:
    short, long = split(6000, window_tokens=32), split(6000, window_tokens=512)

    assert torch.equal(short.held_out_WT, long.held_out_WT)
    assert short.calibrate_WT.shape[1] == 32
    assert long.calibrate_WT.shape[1] == 512


def test_of_every_source_a_quarter_is_held_out() -> None:
    sources = [build_source(3000, name="one"), CalibrationSource(name="two", text="queue " * 3000)]

    parts = split_calibration_text(sources, build_tokenizer())

    queue = build_tokenizer()("queue")["input_ids"][0]
    for windows_WT in (parts.calibrate_WT, parts.held_out_WT):
        assert 0.3 < (windows_WT == queue).float().mean().item() < 0.7
    assert [fact["name"] for fact in parts.facts] == ["one", "two"]
    assert parts.facts[1]["num_tokens"] == 3000


def test_judging_never_takes_longer_than_so_many_windows() -> None:
    assert len(split(60_000).held_out_WT) == MAX_HELD_OUT_WINDOWS


@pytest.mark.parametrize(
    ("num_words", "window_tokens", "problem"),
    [
        (1023, 256, "it has 1023 tokens, and at least 1024 are needed for windows of 256"),
        (1279, 1024, "it has 1279 tokens, and at least 1280 are needed for windows of 1024"),
    ],
)
def test_text_that_is_too_short_is_told_by_its_tokens(num_words: int, window_tokens: int, problem: str) -> None:
    source = CalibrationSource(name="text", text="queue " * num_words)
    enough = CalibrationSource(name="text", text="queue " * (num_words + 1))
    options = CalibrationOptions(window_tokens=window_tokens)

    with pytest.raises(ConfigError, match=problem):
        split_calibration_text([source], build_tokenizer(), options)

    assert len(split_calibration_text([enough], build_tokenizer(), options).calibrate_WT) >= 1


def test_a_model_that_knows_nothing_is_as_surprised_as_its_vocabulary_is_large() -> None:
    model = build_llama()
    with torch.no_grad():
        model.model.norm.weight.zero_()

    perplexity = measure_perplexity(model, torch.randint(0, 500, (2, 16)))

    assert perplexity == pytest.approx(500.0, rel=1e-4)
    assert math.isfinite(perplexity)
