"""How an engine is told its share of a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble.config import MemberConfig
from ensemble.engines.config import EngineConfig, VllmEngineConfig
from ensemble.engines.footprint import GIB, Footprint
from ensemble.errors import ConfigError
from ensemble.planning.demand import measure_member
from ensemble.planning.machine import Gpu, ask_driver

USABLE_SHARE = 0.96
"""Of a GPU's memory; the driver keeps some, and what is freed lies in pieces."""


def cache_room(footprint: Footprint, *, gpu_bytes: int, share: float) -> int:
    """Give what a cache gets: what is left of the share, but no more than it has use for."""
    left = int(gpu_bytes * share * USABLE_SHARE) - footprint.weight_bytes - footprint.reserve_bytes
    return min(left, footprint.max_cache_bytes)


def fit_engine(member: MemberConfig, footprint: Footprint, *, gpu_bytes: int) -> EngineConfig:
    """Give the member's engine with its share of a GPU of this size said in the engine's own words.

    Only vLLM has such words: the cache's size, stated, so that it does not measure memory in which others start and
    end; and the share, which it checks to be free. What the spec says itself stays.

    Raises:
        ConfigError: the share is too small.
    """
    config = member.engine
    share = min(1.0, member.resources.gpus)
    room_bytes = cache_room(footprint, gpu_bytes=gpu_bytes, share=share)
    if room_bytes < footprint.min_cache_bytes:
        raise ConfigError(
            "resources.gpus",
            f"{member.name} needs {footprint.least_bytes / GIB:.1f} GiB{describe_need(footprint)}, but {share:g} of "
            f"this GPU, {gpu_bytes / GIB:.1f} GiB, leaves {gpu_bytes * share * USABLE_SHARE / GIB:.1f} GiB",
            "give it a larger share, or lower engine.kv_cache_gib or max_context",
        )
    if config.type != "vllm":
        return config
    return _tell_vllm(config, share=share, cache_gib=room_bytes / GIB)


def _tell_vllm(config: VllmEngineConfig, *, share: float, cache_gib: float | None) -> VllmEngineConfig:
    options = {"gpu_memory_utilization": round(share * USABLE_SHARE, 4), **config.options}
    return config.model_copy(update={"kv_cache_gib": config.kv_cache_gib or cache_gib, "options": options})


def describe_need(footprint: Footprint | None) -> str:
    """Say in brackets what a need is made of; nothing when it was not measured."""
    if footprint is None or not footprint.weight_bytes:
        return ""
    parts = (
        ("weights", footprint.weight_bytes),
        ("cache", footprint.min_cache_bytes),
        ("reserve", footprint.reserve_bytes),
    )
    return f" ({', '.join(f'{name} {size / GIB:.1f}' for name, size in parts if size)})"


def find_gpus(visible: Sequence[str]) -> tuple[Gpu, ...]:
    """Find the GPUs that a process sees, given as the driver numbers or names them; in the order given.

    One that the driver does not know, or all of them where its tool is not installed, keep their names, and have no
    known memory.

    Raises:
        ConfigError: the driver's tool is there, and tells nothing: a number is no name that all processes agree on.
    """
    known = (ask_driver() if visible else ()) or ()
    found = []
    for name in visible:
        matching = [gpu for gpu in known if name == str(gpu.index) or gpu.uuid.startswith(name)]
        found.append(matching[0] if matching else Gpu(index=0, uuid=name))
    return tuple(found)


def fit_to_gpus(member: MemberConfig, gpus: Sequence[Gpu]) -> EngineConfig:
    """Give the member's engine as it runs on these GPUs; without a GPU of known size, with what the spec says itself.

    Raises:
        ConfigError: the member's share of the smallest is too small, or vLLM cannot be told how much its share is.
        CheckpointError: the checkpoint cannot be measured.
    """
    if not member.is_on_gpu:
        return member.engine
    sizes = [gpu.memory_bytes for gpu in gpus]
    known = [size for size in sizes if size is not None]
    if known:
        return fit_engine(member, measure_member(member), gpu_bytes=min(known))
    share = member.resources.gpus
    if member.engine.type != "vllm" or share >= 1:
        return member.engine
    if member.engine.kv_cache_gib is None:
        raise ConfigError(
            "engine.kv_cache_gib",
            f"{member.name} has {share:g} of a GPU whose memory is not known here, so its cache cannot be planned",
            "state it, or make `nvidia-smi` tell the GPU's memory there",
        )
    return _tell_vllm(member.engine, share=share, cache_gib=None)
