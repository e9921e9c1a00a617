"""What a replica needs in memory, by its engine: measured from the checkpoint before anything is loaded.

What cannot be measured without running is a reserve, stated here. On a GPU it is the CUDA context (some 0.5 GiB),
the largest pass's activations and logits, and vLLM's CUDA graphs; beside it, or on a CPU, the processes' own memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ensemble.checkpoints.measure import MeasuredCheckpoint, measure_checkpoint
from ensemble.engines.cache_shape import CacheShape
from ensemble.engines.config import (
    ClassifierEngineConfig,
    EchoEngineConfig,
    EmbeddedEngineConfig,
    FusedEngineConfig,
    VllmEngineConfig,
)
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from ensemble.engines.config import EngineConfig

GIB = 2**30
PROCESS_BYTES = GIB // 4
"""A replica without a model."""
EMBEDDED_HOST_BYTES = GIB
"""torch, transformers and the passes' activations; 0.6 GiB of it is there before a model is."""
EMBEDDED_GPU_BYTES = 3 * GIB // 2
VLLM_HOST_BYTES = 9 * GIB // 4
"""vLLM's three processes on a CPU, beside weights and cache (measured: 3.4 GB with a cache of 1 GiB)."""
VLLM_GPU_HOST_BYTES = 4 * GIB
VLLM_GPU_BYTES = 3 * GIB
VLLM_CPU_CACHE_GIB = 1.0
"""What the engine takes on a CPU when the spec does not say."""
_BYTES_BY_DTYPE = {"float32": 4, "bfloat16": 2, "float16": 2}
_BYTES_BY_ONLINE_QUANTIZATION = {"fp8": 1.0, "int8": 1.0}
"""What vLLM can make of float weights when it loads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """A replica's memory on each of its devices, and beside them on the host; on a CPU the device is the host.

    The cache takes between ``min_cache_bytes``, without which the engine does not start, and ``max_cache_bytes``,
    beyond which it has no use for more.
    """

    dtype: str = ""
    quantization: str = ""
    weight_bytes: int = 0
    min_cache_bytes: int = 0
    max_cache_bytes: int = 0
    reserve_bytes: int = 0
    host_bytes: int = 0

    @property
    def least_bytes(self) -> int:
        """The least that a device must have."""
        return self.weight_bytes + self.min_cache_bytes + self.reserve_bytes


def measure_footprint(config: EngineConfig, *, checkpoint: str, on_gpu: bool, cache_dir: Path) -> Footprint:
    """Measure what an engine needs for a checkpoint.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or cannot be measured.
        ConfigError: the engine's parallel sizes do not fit the model.
    """
    match config:
        case EchoEngineConfig():
            return Footprint(host_bytes=PROCESS_BYTES)
        case EmbeddedEngineConfig():
            return _measure_embedded(config, checkpoint, on_gpu=on_gpu, cache_dir=cache_dir)
        case ClassifierEngineConfig():
            measured = measure_checkpoint(checkpoint, cache_dir=cache_dir)
            return _in_process(config.dtype, measured, 0, on_gpu=on_gpu)
        case FusedEngineConfig():
            return _measure_fused(config, checkpoint, on_gpu=on_gpu, cache_dir=cache_dir)
        case VllmEngineConfig():
            return _measure_vllm(config, checkpoint, on_gpu=on_gpu, cache_dir=cache_dir)


def _measure_embedded(
    config: EmbeddedEngineConfig | FusedEngineConfig, checkpoint: str, *, on_gpu: bool, cache_dir: Path
) -> Footprint:
    """Measure one checkpoint of an embedded engine, which on a CPU reads it in float32 and packs its linear layers.

    The packed weights take the plain ones' place, except that a head that is tied to the embeddings becomes a copy.
    """
    measured = measure_checkpoint(checkpoint, cache_dir=cache_dir)
    dtype = _embedded_dtype(config.dtype, on_gpu=on_gpu)
    shape = CacheShape.from_config(checkpoint, measured.config)
    max_context = min(config.max_context, shape.max_context or config.max_context)
    cache_bytes = config.max_batch * max_context * shape.bytes_per_token(_BYTES_BY_DTYPE[dtype])
    if config.kv_cache_gib is not None:
        cache_bytes = min(cache_bytes, int(config.kv_cache_gib * GIB))
    footprint = _in_process(dtype, measured, cache_bytes, on_gpu=on_gpu)
    copied = 0 if on_gpu else measured.tied_head_elements * _BYTES_BY_DTYPE[dtype]
    return replace(footprint, dtype=config.dtype, weight_bytes=footprint.weight_bytes + copied)


def _embedded_dtype(wanted: str, *, on_gpu: bool) -> str:
    if on_gpu:
        return "bfloat16" if wanted == "auto" else wanted
    return "float16" if wanted == "float16" else "float32"


def _in_process(dtype: str, measured: MeasuredCheckpoint, cache_bytes: int, *, on_gpu: bool) -> Footprint:
    return Footprint(
        dtype=dtype,
        quantization=_describe_quantization(measured),
        weight_bytes=measured.weight_bytes(_BYTES_BY_DTYPE[dtype]),
        min_cache_bytes=cache_bytes,
        max_cache_bytes=cache_bytes,
        reserve_bytes=EMBEDDED_GPU_BYTES if on_gpu else 0,
        host_bytes=EMBEDDED_HOST_BYTES,
    )


def _measure_fused(config: FusedEngineConfig, checkpoint: str, *, on_gpu: bool, cache_dir: Path) -> Footprint:
    """Add up the group's checkpoints, each with a cache of its own; one that is named twice is loaded once."""
    group = (checkpoint, *config.others)
    part_by_name = {
        one: _measure_embedded(config, one, on_gpu=on_gpu, cache_dir=cache_dir) for one in dict.fromkeys(group)
    }
    cache_bytes = sum(part_by_name[one].max_cache_bytes for one in group)
    if config.kv_cache_gib is not None:
        cache_bytes = min(cache_bytes, int(config.kv_cache_gib * GIB))
    return replace(
        part_by_name[checkpoint],
        weight_bytes=sum(part.weight_bytes for part in part_by_name.values()),
        min_cache_bytes=cache_bytes,
        max_cache_bytes=cache_bytes,
    )


def _measure_vllm(config: VllmEngineConfig, checkpoint: str, *, on_gpu: bool, cache_dir: Path) -> Footprint:
    measured = measure_checkpoint(checkpoint, has_weights=config.load_format != "dummy", cache_dir=cache_dir)
    dtype = _vllm_dtype(config, measured, on_gpu=on_gpu)
    weight_bytes = measured.weight_bytes(
        _BYTES_BY_DTYPE[dtype], bytes_per_linear=_BYTES_BY_ONLINE_QUANTIZATION.get(config.quantization or "")
    )
    least_bytes, most_bytes = _vllm_cache_bytes(config, checkpoint, measured, dtype=dtype, on_gpu=on_gpu)
    return Footprint(
        dtype=dtype,
        quantization=_describe_quantization(measured) or (config.quantization or ""),
        # Split evenly: what a stage has more of, embeddings or the last layer, is within the reserve.
        weight_bytes=-(-weight_bytes // (config.tensor_parallel_size * config.pipeline_parallel_size)),
        min_cache_bytes=least_bytes,
        max_cache_bytes=most_bytes,
        reserve_bytes=VLLM_GPU_BYTES if on_gpu else 0,
        host_bytes=VLLM_GPU_HOST_BYTES if on_gpu else VLLM_HOST_BYTES,
    )


def _vllm_cache_bytes(
    config: VllmEngineConfig, checkpoint: str, measured: MeasuredCheckpoint, *, dtype: str, on_gpu: bool
) -> tuple[int, int]:
    """Give the least and the most of a device's cache: one whole context, and one for each request at once."""
    tensor_parallel, pipeline_parallel = config.tensor_parallel_size, config.pipeline_parallel_size
    stated_gib = config.kv_cache_gib or (0.0 if on_gpu else VLLM_CPU_CACHE_GIB)
    is_parallel = tensor_parallel * pipeline_parallel > 1
    if stated_gib and not is_parallel:
        return int(stated_gib * GIB), int(stated_gib * GIB)
    shape = CacheShape.from_config(checkpoint, measured.config)
    _check_parallel_sizes(config, checkpoint, shape)
    if stated_gib:
        return int(stated_gib * GIB), int(stated_gib * GIB)
    is_fp8 = str(config.options.get("kv_cache_dtype", "")).startswith("fp8")
    token_bytes = shape.bytes_per_token(
        1 if is_fp8 else _BYTES_BY_DTYPE[dtype], tensor_parallel=tensor_parallel, pipeline_parallel=pipeline_parallel
    )
    context_bytes = min(config.max_context, shape.max_context or config.max_context) * token_bytes
    return context_bytes, config.max_batch * context_bytes


def _check_parallel_sizes(config: VllmEngineConfig, checkpoint: str, shape: CacheShape) -> None:
    if shape.num_heads % config.tensor_parallel_size:
        sizes = ", ".join(str(size) for size in range(1, shape.num_heads + 1) if shape.num_heads % size == 0)
        raise ConfigError(
            "engine.tensor_parallel_size",
            f"it is {config.tensor_parallel_size}, but {checkpoint} has {shape.num_heads} attention heads",
            f"take one that divides them: {sizes}",
        )
    if config.pipeline_parallel_size > shape.num_layers:
        raise ConfigError(
            "engine.pipeline_parallel_size",
            f"it is {config.pipeline_parallel_size}, but {checkpoint} has {shape.num_layers} layers",
            "take fewer stages than layers",
        )


def _vllm_dtype(config: VllmEngineConfig, measured: MeasuredCheckpoint, *, on_gpu: bool) -> str:
    if config.dtype != "auto":
        return config.dtype
    if not on_gpu:
        return "float32"
    own = measured.config.get("dtype") or measured.config.get("torch_dtype")
    # On a GPU vLLM runs float32 checkpoints in 16 bits.
    return "bfloat16" if own == "bfloat16" else "float16"


def _describe_quantization(measured: MeasuredCheckpoint) -> str:
    described = measured.config.get("quantization_config")
    if not isinstance(described, dict):
        return ""
    groups = described.get("config_groups")
    bits = {
        str(group["weights"].get("num_bits"))
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict) and isinstance(group.get("weights"), dict)
    }
    method = str(described.get("quant_method", "quantised"))
    return f"{method}, {'/'.join(sorted(bits))} bits" if bits else method
