"""Eight-bit weights and inputs, as whole numbers and as floats: what is written, and what it computes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ensemble.checkpoints import load_checkpoint
from ensemble.checkpoints.w8a8_linear import W8A8Linear
from ensemble.compression.calibration_sources import load_calibration_sources
from ensemble.compression.calibration_text import split_calibration_text
from ensemble.compression.compress import compress
from ensemble.compression.perplexity import measure_perplexity
from ensemble.compression.recipe import Recipe
from ensemble.errors import CheckpointError, ConfigError
from tests.checkpoints.tiny_models import build_gemma3, build_llama, build_tokenizer, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

W8A8 = {"type": "quantize_w8a8"}
FP8 = {"type": "quantize_fp8"}
FP8_TENSOR = {"type": "quantize_fp8", "strategy": "tensor"}
WAYS = pytest.mark.parametrize("step", [W8A8, FP8, FP8_TENSOR], ids=["int8", "float8", "float8-tensor"])
TOKENS = torch.arange(4, 40)[None]
UP = "model.layers.0.mlp.up_proj"


def build_recipe(*steps: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"steps": steps})


def load(folder: Path | str) -> PreTrainedModel:
    return load_checkpoint(str(folder), dtype="float32", device="cpu").model


@WAYS
@pytest.mark.parametrize("build", [build_llama, build_gemma3, lambda: build_llama(tied=False)])
def test_what_is_loaded_is_close_to_the_source_and_has_the_perplexity_that_was_measured(
    tmp_path: Path, build: Callable[[], PreTrainedModel], step: dict[str, Any]
) -> None:
    source = save(build(), tmp_path / "source")

    report = compress(source, build_recipe(step), tmp_path / "out")

    before, after = load(source), load(tmp_path / "out")
    layers = [layer for layer in after.modules() if isinstance(layer, W8A8Linear)]
    assert len(layers) == report.steps[0]["num_layers"] == 4 * 7
    assert isinstance(after.lm_head, nn.Linear)
    with torch.inference_mode():
        logits_before, logits_after = before(TOKENS).logits, after(TOKENS).logits
    # Random weights of Gemma 3 make more of a small error than those of Llama.
    bound = 0.06 if step is W8A8 else 0.25
    assert 0 < (logits_after - logits_before).norm() / logits_before.norm() < bound
    held_out_WT = split_calibration_text(load_calibration_sources(()), build_tokenizer()).held_out_WT
    assert report.perplexity_after == measure_perplexity(after, held_out_WT)


@WAYS
def test_codes_lie_on_disk_as_they_are_with_float_scales_beside_the_source_s_bfloat16(
    tmp_path: Path, step: dict[str, Any]
) -> None:
    source = save(build_llama().bfloat16(), tmp_path / "source")

    compress(source, build_recipe(step), tmp_path / "out")

    tensors = load_file(tmp_path / "out" / "model.safetensors")
    dtype = torch.int8 if step is W8A8 else torch.float8_e4m3fn
    assert tensors[f"{UP}.weight"].dtype == dtype
    assert tensors[f"{UP}.weight_scale"].dtype == torch.float32
    assert tensors[f"{UP}.weight_scale"].shape == ((1,) if step is FP8_TENSOR else (64, 1))
    assert tensors["model.norm.weight"].dtype == torch.bfloat16
    assert not [name for name in tensors if name.endswith(("_packed", "_shape"))]
    weight_OI = load_file(tmp_path / "source" / "model.safetensors")[f"{UP}.weight"].float()
    rounded_OI = tensors[f"{UP}.weight"].float() * tensors[f"{UP}.weight_scale"]
    assert (rounded_OI - weight_OI).norm() / weight_OI.norm() < (0.01 if step is W8A8 else 0.04)


@WAYS
def test_the_same_inputs_give_byte_equal_weights(tmp_path: Path, step: dict[str, Any]) -> None:
    source = save(build_llama(), tmp_path / "source")

    for name in ("first", "second"):
        compress(source, build_recipe(step), tmp_path / name)

    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@WAYS
def test_a_compressed_base_is_not_compressed_again(tmp_path: Path, step: dict[str, Any]) -> None:
    source = save(build_llama(), tmp_path / "source")
    compress(source, build_recipe(step), tmp_path / "out")

    with pytest.raises(ConfigError, match="quantised already"):
        compress(str(tmp_path / "out"), build_recipe(step), tmp_path / "again")


@WAYS
def test_a_shared_head_and_an_empty_choice_are_refused(tmp_path: Path, step: dict[str, Any]) -> None:
    source = save(build_llama(), tmp_path / "source")

    with pytest.raises(ConfigError, match="lm_head shares its weight"):
        compress(source, build_recipe({**step, "ignore": []}), tmp_path / "out")
    with pytest.raises(ConfigError, match="no linear layer is left to quantise"):
        compress(source, build_recipe({**step, "ignore": ["re:.*"]}), tmp_path / "out")


def test_static_inputs_are_refused_when_the_checkpoint_is_loaded(tmp_path: Path) -> None:
    source = save(build_llama(), tmp_path / "source")
    compress(source, build_recipe(W8A8), tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["dynamic"] = False
    path.write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match="use the vllm engine"):
        load(tmp_path / "out")
