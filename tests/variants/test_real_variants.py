"""What is known of a real model's variants is what the comparison measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.compression.compress import compress
from ensemble.compression.recipe import Recipe
from ensemble.variants.compare import compare_variants
from ensemble.variants.compare_task import CompareTask
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.lineage import load_candidate, trace_families
from ensemble.variants.passages import load_judging_text
from tests.engines.embedded_runs import packaged_smollm2

pytestmark = pytest.mark.slow


def test_eight_bits_are_a_near_clone_and_fewer_layers_are_none(tmp_path: Path) -> None:
    for name, step in (("int8", {"type": "quantize_int8"}), ("layers", {"type": "prune_layers", "num_layers": 3})):
        compress(packaged_smollm2(), Recipe.model_validate({"steps": [step]}), tmp_path / name)
    original = load_candidate("smollm2", packaged_smollm2())
    variants = [load_candidate("", str(tmp_path / name)) for name in ("int8", "layers")]

    figures = compare_variants(
        CompareTask(
            families=trace_families([original], variants),
            text=load_judging_text(max_passages=6),
            setup=EngineSetup(device="cpu"),
            speed=None,
        )
    )

    base, int8, layers = figures.variants
    assert base.text is not None
    assert 20.0 < base.text.perplexity.value < 60.0
    assert int8.beside is not None
    assert layers.beside is not None
    assert 0.99 < int8.beside.perplexity_ratio.value < 1.03
    assert int8.beside.agreement.value > 0.94
    assert layers.beside.perplexity_ratio.interval.low > 1.2
    assert layers.beside.agreement.value < 0.8
    assert int8.sizes.file_bytes < 0.5 * base.sizes.file_bytes
    assert [(pair.first, pair.second) for pair in figures.clones] == [("smollm2", "int8")]
