"""Loading folders, and refusing unsound ones."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from ensemble.checkpoints import load_checkpoint
from ensemble.checkpoints.int8_format import METHOD, describe_int8
from ensemble.errors import CheckpointError
from tests.checkpoints.tiny_models import build_gemma3, build_llama, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKENS = torch.arange(4, 24)[None]


def test_a_folder_gives_its_model_ready_to_run(tmp_path: Path) -> None:
    original = build_gemma3()
    save(original, tmp_path)

    loaded = load_checkpoint(str(tmp_path), dtype="float32", device="cpu")

    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.folder == tmp_path
    with torch.inference_mode():
        assert torch.equal(loaded.model(TOKENS).logits, original(TOKENS).logits)


def test_the_dtype_is_the_one_asked_for(tmp_path: Path) -> None:
    save(build_llama(), tmp_path)

    loaded = load_checkpoint(str(tmp_path), dtype="bfloat16", device="cpu")

    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def drop_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def add_pickled_weights(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")


def name_a_pickle_in_the_index(folder: Path) -> None:
    (folder / "model.dat").write_bytes(pickle.dumps({"a": 1}))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.dat"}}')


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def garble_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def change_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


def quantize_otherwise(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))


def describe_quantization_as(quantization: object) -> Callable[[Path], None]:
    def describe(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))

    return describe


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2-of-2.safetensors"}}')


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (cut_weights, "cut short"),
        (drop_a_weight, "weights are absent: model.layers.1.mlp.up_proj.weight"),
        (pickle_weights, "pickle can run any code"),
        (add_pickled_weights, r"pytorch_model\.bin: these weights are pickled"),
        (name_a_pickle_in_the_index, r"model\.dat: it is damaged"),
        (remove_weights, "no model.safetensors"),
        (remove_config, "config.json cannot be read"),
        (garble_config, "not a JSON object"),
        (change_width, "transformers cannot load it"),
        (quantize_otherwise, "quantised as gptq"),
        (describe_quantization_as("int8"), "quantised as None/"),
        (describe_quantization_as(["int8"]), "quantised as None/"),
        (describe_quantization_as({"quant_method": METHOD, "config_groups": [1]}), "quantised as compressed-tensors/"),
        (describe_quantization_as({"quant_method": METHOD, "config_groups": {"a": 1}}), "as compressed-tensors/"),
        (describe_quantization_as(describe_int8(ignore=("re:[",))), r"ignore is not a list of layers .*'re:\['"),
        (describe_quantization_as(describe_int8(ignore=()) | {"ignore": 7}), "ignore is not a list of layers"),
        (lose_a_shard, "absent files: model-2-of-2.safetensors"),
    ],
)
def test_an_unsound_folder_is_refused_with_the_fact(
    tmp_path: Path, damage: Callable[[Path], None], problem: str
) -> None:
    save(build_llama(), tmp_path)
    damage(tmp_path)

    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(str(tmp_path), dtype="float32", device="cpu")


def test_what_a_trainer_leaves_beside_the_weights_is_left_alone(tmp_path: Path) -> None:
    save(build_llama(), tmp_path)
    for name in ("training_args.bin", "optimizer.pt", "rng_state_0.pth"):
        (tmp_path / name).write_bytes(b"a pickle that nobody reads")

    assert load_checkpoint(str(tmp_path), dtype="float32", device="cpu").folder == tmp_path


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="float8"):
        load_checkpoint(str(tmp_path), dtype="float8", device="cpu")


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, ensemble.checkpoints; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"

    finished = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)  # noqa: S603 - our own program

    assert finished.returncode == 0
