"""Pruning by magnitude and four-bit rounding, of causal models and of classifiers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from ensemble.checkpoints import load_checkpoint
from ensemble.checkpoints.int4_linear import Int4Linear
from ensemble.compression.compress import compress
from ensemble.compression.recipe import Recipe
from ensemble.errors import CheckpointError, ConfigError
from tests.checkpoints.tiny_models import build_gemma3, build_llama, build_tokenizer, save
from tests.engines.tiny_classifiers import bert_config, llama_config, save_classifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel

PRUNE = {"type": "prune_weights", "score": "magnitude", "sparsity": 0.5}
INT4 = {"type": "quantize_int4"}
TOKENS = torch.arange(4, 40)[None]


def build_recipe(*steps: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"steps": steps})


def load(folder: Path | str) -> PreTrainedModel:
    return load_checkpoint(str(folder), dtype="float32", device="cpu").model


def zero_share(weight: torch.Tensor) -> float:
    return (weight == 0).float().mean().item()


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_half_of_each_linear_layer_is_zero_and_the_rest_in_four_bits(
    tmp_path: Path, build: Callable[[], PreTrainedModel]
) -> None:
    source = save(build(), tmp_path / "source")

    report = compress(source, build_recipe(PRUNE, INT4), tmp_path / "out")

    layers = [layer for layer in load(tmp_path / "out").modules() if isinstance(layer, Int4Linear)]
    assert len(layers) == report.steps[1]["num_layers"] == 4 * 7
    # Small weights round to zero, too.
    assert all(0.5 <= zero_share(layer.weight) < 0.75 for layer in layers)
    assert report.steps[0]["zero_share"] == pytest.approx(0.5, abs=0.001)
    assert report.output_bytes < report.source_bytes
    assert report.perplexity_after is not None


def test_four_bits_alone_are_close_to_the_source(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")

    compress(source, build_recipe(INT4), tmp_path / "out")

    with torch.inference_mode():
        before, after = load(source)(TOKENS).logits, load(tmp_path / "out")(TOKENS).logits
    assert 0 < (after - before).norm() / before.norm() < 0.3


@pytest.mark.parametrize("config", [bert_config, llama_config])
def test_a_classifier_is_compressed_and_keeps_head_and_labels(
    tmp_path: Path, config: Callable[[], PreTrainedConfig]
) -> None:
    source = save_classifier(tmp_path / "source", config())
    build_tokenizer().save_pretrained(source)

    report = compress(source, build_recipe(PRUNE, INT4), tmp_path / "out")

    before, after = load(source), load(tmp_path / "out")
    assert type(after) is type(before)
    assert after.config.id2label == before.config.id2label
    assert report.perplexity_before is report.perplexity_after is None
    assert any(isinstance(layer, Int4Linear) for layer in after.modules())
    heads = [[m for n, m in model.named_modules() if n in {"classifier", "score"}] for model in (before, after)]
    assert torch.equal(heads[0][0].weight, heads[1][0].weight)


def test_embeddings_are_pruned_when_they_are_named(tmp_path: Path) -> None:
    source = save_classifier(tmp_path / "source", bert_config())
    build_tokenizer().save_pretrained(source)

    compress(source, build_recipe({**PRUNE, "targets": ["Embedding"]}), tmp_path / "out")

    model = load(tmp_path / "out")
    embedding: Any = model.get_input_embeddings()
    assert zero_share(embedding.weight) == pytest.approx(0.5, abs=0.01)
    linears = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert all(zero_share(layer.weight) < 0.1 for layer in linears)


def test_the_same_inputs_give_byte_equal_weights(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")

    for name in ("first", "second"):
        compress(source, build_recipe(PRUNE, INT4), tmp_path / name)

    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        (({"type": "quantize_int4", "ignore": ["re:.*"]},), "no linear layer is left to quantise"),
        (({"type": "quantize_int4", "ignore": []},), "lm_head shares its weight"),
        (({**PRUNE, "ignore": ["re:.*"]},), "no layer is left to prune"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, steps: tuple[dict[str, Any], ...], problem: str) -> None:
    source = save(build_llama(), tmp_path / "source")

    with pytest.raises(ConfigError, match=problem):
        compress(source, build_recipe(*steps), tmp_path / "out")


def test_a_description_of_layers_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    compress(source, build_recipe(INT4), tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["config_groups"]["group_0"]["targets"][0] = "model.layers.9.q"
    path.write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match=r"model\.layers\.9\.q is no linear layer"):
        load(tmp_path / "out")
