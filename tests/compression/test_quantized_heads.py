"""Heads of 8 bits, and layers of 8 bits among those of 4: what is written, loaded and refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ensemble.checkpoints import load_checkpoint
from ensemble.checkpoints.int4_linear import Int4Linear
from ensemble.checkpoints.int8_linear import Int8Linear
from ensemble.compression.compress import compress
from ensemble.compression.recipe import Recipe
from ensemble.errors import CheckpointError, ConfigError
from tests.checkpoints.tiny_models import build_gemma3, build_llama, save
from tests.engines.tiny_classifiers import llama_config, save_classifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

INT8 = {"type": "quantize_int8", "quantize_head": True}
INT4 = {"type": "quantize_int4", "quantize_head": True, "int8": ["down_proj"]}
TOKENS = torch.arange(4, 40)[None]
BUILDS = pytest.mark.parametrize("build", [build_llama, build_gemma3, lambda: build_llama(tied=False)])
STEPS = pytest.mark.parametrize("step", [INT8, INT4], ids=["int8", "int4"])


def run(source: str, output: Path, *steps: dict[str, Any]) -> dict[str, Any]:
    compress(source, Recipe.model_validate({"steps": steps}), output)
    config: dict[str, Any] = json.loads((output / "config.json").read_text())
    return config


def load(reference: Path | str) -> PreTrainedModel:
    return load_checkpoint(str(reference), dtype="float32", device="cpu").model


@BUILDS
@STEPS
def test_the_head_has_8_bits_of_its_own_and_the_embeddings_are_those_of_the_source(
    tmp_path: Path, build: Callable[[], PreTrainedModel], step: dict[str, Any]
) -> None:
    source = save(build(), tmp_path / "source")

    run(source, tmp_path / "out", step)

    before, after = load(source), load(tmp_path / "out")
    assert isinstance(after.lm_head, Int8Linear)
    assert not after.config.tie_word_embeddings
    embeddings: list[Any] = [model.get_input_embeddings() for model in (before, after)]
    assert torch.equal(embeddings[0].weight, embeddings[1].weight)
    rounded_OI = after.lm_head.weight * after.lm_head.weight_scale
    assert ((rounded_OI - before.lm_head.weight).abs() <= 0.51 * after.lm_head.weight_scale).all()


@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_the_logits_stay_close_to_the_source_s(tmp_path: Path, build: Callable[[], PreTrainedModel]) -> None:
    source = save(build(), tmp_path / "source")

    run(source, tmp_path / "out", INT8)

    with torch.inference_mode():
        before, after = (load(reference)(TOKENS).logits for reference in (source, tmp_path / "out"))
    assert (after - before).norm() / before.norm() < 0.03


def test_layers_of_8_bits_among_those_of_4_are_named_in_a_group_of_their_own(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")

    config = run(source, tmp_path / "out", INT4)

    groups = list(config["quantization_config"]["config_groups"].values())
    # All but down_proj, which has 8 bits, have 32 input features.
    assert [(group["weights"]["num_bits"], len(group["targets"])) for group in groups] == [(4, 4 * 6), (8, 4 + 1)]
    assert "lm_head" in groups[1]["targets"]
    assert all(name.endswith("down_proj") or name == "lm_head" for name in groups[1]["targets"])
    assert config["quantization_config"]["ignore"] == []
    model = load(tmp_path / "out")
    assert sum(isinstance(layer, Int4Linear) for layer in model.modules()) == 4 * 6
    assert all(isinstance(layer.mlp.down_proj, Int8Linear) for layer in model.model.layers)


def test_an_8_bit_head_is_a_target_by_its_name_since_vllm_does_not_count_it_among_linear_layers(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")

    config = run(source, tmp_path / "out", INT8)

    (group,) = config["quantization_config"]["config_groups"].values()
    assert group["targets"] == ["Linear", "lm_head"]
    assert config["quantization_config"]["ignore"] == []


@STEPS
def test_transformers_computes_what_is_computed_here(tmp_path: Path, step: dict[str, Any]) -> None:
    pytest.importorskip("compressed_tensors")
    source = save(build_llama(), tmp_path / "source")
    run(source, tmp_path / "out", step)

    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)

    with torch.inference_mode():
        torch.testing.assert_close(theirs(TOKENS).logits, load(tmp_path / "out")(TOKENS).logits, rtol=1e-3, atol=1e-3)


def test_the_source_s_head_stays_tied_without_the_option(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")

    run(source, tmp_path / "out", {"type": "quantize_int4", "int8": ["down_proj"]})

    model = load(tmp_path / "out")
    assert isinstance(model.lm_head, nn.Linear)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@STEPS
def test_a_classifier_has_no_such_head(tmp_path: Path, step: dict[str, Any]) -> None:
    source = save_classifier(tmp_path / "source", llama_config())

    with pytest.raises(ConfigError, match="no linear layer that gives tokens"):
        run(source, tmp_path / "out", step)


def test_names_that_no_layer_has_are_refused(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")

    with pytest.raises(ConfigError, match="no linear layer has one of these names"):
        run(source, tmp_path / "out", {"type": "quantize_int4", "int8": ["dawn_proj"]})


def test_an_8_bit_layer_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    config = run(source, tmp_path / "out", INT4)
    config["quantization_config"]["config_groups"]["group_1"]["targets"][0] = "model.layers.9.down_proj"
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match=r"model\.layers\.9\.down_proj is no linear layer"):
        load(tmp_path / "out")
