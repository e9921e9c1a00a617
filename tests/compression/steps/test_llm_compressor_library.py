"""The step with llm-compressor itself, where its environment was built (``make compress-env``)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ensemble.checkpoints import load_checkpoint
from ensemble.checkpoints.int4_linear import Int4Linear
from ensemble.checkpoints.w8a8_linear import W8A8Linear
from ensemble.compression.compress import compress
from ensemble.compression.perplexity import measure_perplexity
from ensemble.compression.recipe import Recipe
from ensemble.compression.steps.llm_compressor import LlmCompressor
from ensemble.environment import compress_python
from ensemble.errors import ConfigError
from ensemble.generation import ScoringRequest
from tests.checkpoints.tiny_models import build_llama
from tests.engines.embedded_runs import running
from tests.engines.tiny_checkpoints import NUM_WORDS, save_random_llama
from tests.engines.vllm_runs import HEAD_DIM, NEEDS_VLLM, START_TIMEOUT, running_vllm

if TYPE_CHECKING:
    from ensemble.compression.record import CompressionReport

pytestmark = pytest.mark.skipif(
    not compress_python().exists(), reason="llm-compressor's environment is not built: make compress-env"
)

IGNORE = {"ignore": ["lm_head"]}
MODIFIERS: dict[str, dict[str, Any]] = {
    "gptq": {"GPTQModifier": {"scheme": "W4A16", **IGNORE}},
    "awq": {"AWQModifier": {"n_grid": 4}, "QuantizationModifier": {"scheme": "W4A16", **IGNORE}},
    "w8a8": {"SmoothQuantModifier": {"smoothing_strength": 0.8}, "GPTQModifier": {"scheme": "W8A8", **IGNORE}},
    "asymmetric": {"QuantizationModifier": {"scheme": "W4A16_ASYM", **IGNORE}},
    "sparse": {"SparseGPTModifier": {"sparsity": 0.5, "mask_structure": "2:4", **IGNORE}},
}
RUNS_HERE = {"gptq": Int4Linear, "awq": Int4Linear, "w8a8": W8A8Linear}
PROMPT = "w3 w14 w15 w92 w65"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("source")
    return save_random_llama(folder, head_dim=HEAD_DIM, hidden_size=64, intermediate_size=256)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "words.txt"
    words = random.Random(3).choices(range(NUM_WORDS), k=3_000)
    path.write_text(" ".join(f"w{word}" for word in words))
    return path


def build_recipe(name: str) -> Recipe:
    modifiers = [{"name": modifier, "options": options} for modifier, options in MODIFIERS[name].items()]
    recipe = {"steps": [{"type": "llm_compressor", "modifiers": modifiers}], "calibration": {"window_tokens": 128}}
    return Recipe.model_validate(recipe).with_compress_python(compress_python())


def run(name: str, source: str, text: Path, folder: Path) -> CompressionReport:
    return compress(source, build_recipe(name), folder / "out", calibration_texts=[text], cache_dir=folder / "cache")


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(str(folder), dtype="float32", device="cpu").model.state_dict()


@pytest.mark.parametrize("name", RUNS_HERE)
def test_what_it_writes_runs_here_as_it_was_measured(name: str, source: str, text: Path, tmp_path: Path) -> None:
    report = run(name, source, text, tmp_path)

    (found,) = report.steps
    assert found["embedded_engine"]
    assert found["num_layers"] == 14
    model = load_checkpoint(str(tmp_path / "out"), dtype="float32", device="cpu").model
    assert sum(isinstance(layer, RUNS_HERE[name]) for layer in model.modules()) == 14
    assert report.perplexity_before is not None
    windows_WT = torch.randint(3, NUM_WORDS, (2, 64), generator=torch.Generator().manual_seed(1))
    original = load_checkpoint(source, dtype="float32", device="cpu").model
    ratio = measure_perplexity(model, windows_WT) / measure_perplexity(original, windows_WT)
    assert report.perplexity_after != report.perplexity_before
    assert 0.5 < ratio < 2.0
    parse_as_vllm_does(tmp_path / "out")


def parse_as_vllm_does(folder: Path) -> None:
    """Read the description with the version of compressed-tensors that vLLM has, where that is here."""
    quantization = pytest.importorskip("compressed_tensors.quantization")
    described = json.loads((folder / "config.json").read_text())["quantization_config"]

    assert quantization.QuantizationConfig.model_validate(described).config_groups


def test_groups_are_the_largest_that_divide_a_layers_inputs(source: str, text: Path, tmp_path: Path) -> None:
    run("gptq", source, text, tmp_path)

    groups = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]["config_groups"]
    size_by_layer = {name: group["weights"]["group_size"] for group in groups.values() for name in group["targets"]}
    assert len(size_by_layer) == 14
    assert {size for name, size in size_by_layer.items() if "down_proj" in name} == {128}
    # Of 64 inputs; the output projection has 4 heads of 32.
    assert {size for name, size in size_by_layer.items() if "up_proj" in name} == {64}
    assert {size for name, size in size_by_layer.items() if "o_proj" in name} == {128}


def test_the_same_seed_and_text_give_the_same_bytes(source: str, text: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        run("w8a8", source, text, tmp_path / folder)

    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one/out" / name).read_bytes() == (tmp_path / "two/out" / name).read_bytes()


def test_half_of_every_four_weights_go(source: str, text: Path, tmp_path: Path) -> None:
    report = run("sparse", source, text, tmp_path)

    assert report.steps[0]["zero_share"] == pytest.approx(0.5, abs=0.01)
    weight_OI = read_tensors(tmp_path / "out")["model.layers.1.mlp.up_proj.weight"]
    assert int(((weight_OI.view(-1, 4) == 0).sum(dim=1) >= 2).sum()) == weight_OI.numel() // 4


def test_a_format_that_only_others_read_is_written_and_its_weights_measured(
    source: str, text: Path, tmp_path: Path
) -> None:
    report = run("asymmetric", source, text, tmp_path)

    assert not report.steps[0]["embedded_engine"]
    assert report.perplexity_after != report.perplexity_before
    parse_as_vllm_does(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("GPTQModifier", {"scheme": "W4A16", "ignored": []}, r"modifiers\[0\].options.ignored: Extra inputs"),
        ("GPTQModifier", {"scheme": "W9A8"}, r"modifiers\[0\].options: .*Unknown preset scheme name W9A8"),
        ("AWQModifier", {}, "modifiers: .*AWQ must be run with a subsequent quantization modifier"),
    ],
)
def test_the_library_refuses_before_any_work(name: str, options: dict[str, Any], problem: str) -> None:
    step = LlmCompressor.model_validate(
        {"modifiers": [{"name": name, "options": options}], "python": compress_python()}
    )

    with pytest.raises(ConfigError, match=problem):
        step.check(build_llama(num_layers=2))


@NEEDS_VLLM
@START_TIMEOUT
@pytest.mark.vllm
# In bfloat16, the least that vLLM's 4-bit products on a CPU take; the embedded engine rounds inputs and outputs, too.
@pytest.mark.parametrize(("name", "bound"), [("gptq", 0.15), ("w8a8", 0.05)])
async def test_vllm_scores_as_the_embedded_engine_does(
    name: str, bound: float, source: str, text: Path, tmp_path: Path
) -> None:
    run(name, source, text, tmp_path)
    request = ScoringRequest(request_id="s", prompt=PROMPT, choices=("w4", "w5 w6 w7"))
    async with running(str(tmp_path / "out")) as engine:
        expected = (await engine.score(request)).logprobs
    async with running(source) as engine:
        original = (await engine.score(request)).logprobs

    async with running_vllm(str(tmp_path / "out")) as vllm:
        scored = (await vllm.score(request)).logprobs

    assert scored == pytest.approx(expected, abs=bound)
    assert original != pytest.approx(expected, abs=bound)
