"""Whole compressions of tiny checkpoints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM

from ensemble.checkpoints import load_checkpoint
from ensemble.checkpoints.int8_linear import Int8Linear
from ensemble.compression.compress import compress
from ensemble.compression.recipe import Recipe
from ensemble.errors import ConfigError
from tests.checkpoints.tiny_models import build_gemma3, build_llama, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from transformers import PreTrainedModel

    from ensemble.compression.standing import Standing

PRUNE = {"type": "prune_layers", "num_layers": 1}
INT8 = {"type": "quantize_int8"}
TOKENS = torch.arange(4, 40)[None]


def build_recipe(*steps: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"steps": steps})


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_a_pruned_checkpoint_loads_in_plain_transformers_with_fewer_layers(
    tmp_path: Path, build: Callable[[], PreTrainedModel]
) -> None:
    source = save(build(), tmp_path / "source")

    report = compress(source, build_recipe(PRUNE), tmp_path / "out")

    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    model, loading = loaded
    assert len(model.model.layers) == 3
    assert not any(loading.values())
    assert report.output_bytes < report.source_bytes
    ours = load_checkpoint(str(tmp_path / "out"), dtype="float32", device="cpu").model
    with torch.inference_mode():
        assert torch.equal(ours(TOKENS).logits, model(TOKENS).logits)


def test_a_variant_of_a_model_that_reads_little_is_made_again_by_the_recipe_in_its_record(tmp_path: Path) -> None:
    model = build_llama()
    model.config.max_position_embeddings = 128
    source = save(model, tmp_path / "source")
    compress(source, build_recipe({"type": "prune_weights", "score": "magnitude"}, INT8), tmp_path / "first")
    record = (tmp_path / "first" / "compression.json").read_bytes()

    compress(source, Recipe.model_validate(json.loads(record)["recipe"]), tmp_path / "again")

    assert (tmp_path / "again" / "compression.json").read_bytes() == record
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("build", [build_llama, build_gemma3, lambda: build_llama(tied=False)])
def test_an_int8_checkpoint_is_close_to_its_source_and_smaller(
    tmp_path: Path, build: Callable[[], PreTrainedModel]
) -> None:
    source = save(build(), tmp_path / "source")

    compress(source, build_recipe(INT8), tmp_path / "out")

    before = load_checkpoint(source, dtype="float32", device="cpu").model
    after = load_checkpoint(str(tmp_path / "out"), dtype="float32", device="cpu").model
    layers = [layer for layer in after.modules() if isinstance(layer, Int8Linear)]
    assert len(layers) == 4 * 7
    assert isinstance(after.lm_head, torch.nn.Linear)
    with torch.inference_mode():
        logits_before, logits_after = before(TOKENS).logits, after(TOKENS).logits
    assert (logits_after - logits_before).norm() / logits_before.norm() < 0.03


def test_a_quantized_tied_head_stays_tied_after_loading(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    compress(source, build_recipe(INT8), tmp_path / "out")

    model = load_checkpoint(str(tmp_path / "out"), dtype="float32", device="cpu").model

    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_steps_are_taken_in_order_and_recorded(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")

    report = compress(source, build_recipe(PRUNE, INT8), tmp_path / "out")

    record = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert [step["type"] for step in record["steps"]] == ["prune_layers", "quantize_int8"]
    assert len(record["steps"][0]["influences"]) == 4
    assert record["steps"][1]["num_layers"] == 3 * 7
    assert record["source"] == source
    assert record["source_digest"] == report.source_digest
    assert record["recipe"]["steps"][0]["num_layers"] == 1
    assert report.perplexity_after is not None
    assert record["perplexity_after"] == report.perplexity_after > 1.0
    libraries = {"python", "safetensors", "torch", "transformers"}
    assert set(record["versions"]) == {"cpu", "ensemble", *libraries}
    assert record["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("steps", [(PRUNE,), (INT8,), (PRUNE, INT8)])
def test_the_same_inputs_give_byte_equal_weights(tmp_path: Path, steps: tuple[dict[str, Any], ...]) -> None:
    source = save(build_llama(), tmp_path / "source")

    compress(source, build_recipe(*steps), tmp_path / "first")
    compress(source, build_recipe(*steps), tmp_path / "second")

    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_weights_are_written_in_the_dtype_of_the_source(tmp_path: Path) -> None:
    source = save(build_llama().bfloat16(), tmp_path / "source")

    compress(source, build_recipe(PRUNE), tmp_path / "out")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_an_output_that_exists_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    with pytest.raises(ConfigError, match="exists already"):
        compress("/nowhere", build_recipe(INT8), tmp_path / "out")


def test_a_quantized_source_is_refused(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    compress(source, build_recipe(INT8), tmp_path / "int8")

    with pytest.raises(ConfigError, match="quantised already"):
        compress(str(tmp_path / "int8"), build_recipe(PRUNE), tmp_path / "out")


def test_an_interrupted_compression_leaves_nothing(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")

    def interrupt(standing: Standing) -> None:
        if standing.part == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(source, build_recipe(INT8), tmp_path / "out", on_progress=interrupt)

    assert [path.name for path in tmp_path.iterdir()] == ["source"]
