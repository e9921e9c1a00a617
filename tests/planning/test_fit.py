"""What an engine is told of the GPUs that its replica is on, and how these are found."""

from __future__ import annotations

from typing import Any

import pytest

from ensemble.config import MemberConfig
from ensemble.errors import ConfigError
from ensemble.planning.fit import USABLE_SHARE, find_gpus, fit_to_gpus
from ensemble.planning.machine import Gpu, parse_gpus
from tests.planning.shapes import (
    FP8_BYTES,
    LLAMA_8B,
    dummy_member,
    save_shape,
)

GIB = 2**30


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_shape(tmp_path_factory.mktemp("llama-8b"), LLAMA_8B)


def test_vllm_is_told_its_share_and_its_cache(llama_8b: str) -> None:
    member = MemberConfig.model_validate(dummy_member("a", llama_8b, gpus=0.33, quantization="fp8", max_batch=256))

    config = fit_to_gpus(member, [Gpu(index=0, memory_bytes=80 * GIB)])

    assert config.type == "vllm"
    assert config.options["gpu_memory_utilization"] == pytest.approx(0.33 * USABLE_SHARE, abs=1e-3)
    assert config.kv_cache_gib is not None
    assert config.kv_cache_gib * GIB == int(80 * GIB * 0.33 * USABLE_SHARE) - FP8_BYTES - 3 * GIB


def test_what_the_spec_says_of_vllms_memory_stays(llama_8b: str) -> None:
    engine: dict[str, Any] = {"kv_cache_gib": 2.0, "options": {"gpu_memory_utilization": 0.5}}
    member = MemberConfig.model_validate(dummy_member("a", llama_8b, gpus=1, **engine))

    config = fit_to_gpus(member, [Gpu(index=0, memory_bytes=80 * GIB)])

    assert config == member.engine


def test_a_replica_on_a_smaller_gpu_than_planned_says_so(llama_8b: str) -> None:
    member = MemberConfig.model_validate(dummy_member("a", llama_8b, gpus=0.5))

    with pytest.raises(ConfigError, match=r"this GPU, 24\.0 GiB"):
        fit_to_gpus(member, [Gpu(index=0, memory_bytes=24 * GIB)])


def test_a_share_of_a_gpu_of_unknown_memory_is_refused_unless_the_cache_is_stated(llama_8b: str) -> None:
    unknown = [Gpu(index=0, uuid="0")]
    member = MemberConfig.model_validate(dummy_member("a", llama_8b, gpus=0.3))
    stated = MemberConfig.model_validate(dummy_member("a", llama_8b, gpus=0.3, kv_cache_gib=2.0))

    with pytest.raises(ConfigError, match=r"0\.3 of a GPU whose memory is not known") as caught:
        fit_to_gpus(member, unknown)
    config = fit_to_gpus(stated, unknown)

    assert caught.value.where == "engine.kv_cache_gib"
    assert config.type == "vllm"
    assert config.kv_cache_gib == 2.0
    assert config.options["gpu_memory_utilization"] == pytest.approx(0.3 * USABLE_SHARE, abs=1e-3)


@pytest.mark.parametrize("gpus", [(), (Gpu(index=0, uuid="MIG-x"),)])
def test_a_whole_gpu_of_unknown_memory_is_left_to_vllm(llama_8b: str, gpus: tuple[Gpu, ...]) -> None:
    member = MemberConfig.model_validate(dummy_member("a", llama_8b, gpus=1))

    assert fit_to_gpus(member, gpus) == member.engine


def test_the_drivers_table_is_read() -> None:
    table = "0, NVIDIA H100 80GB HBM3, GPU-1a, 81559\n1, NVIDIA H100 80GB HBM3, GPU-2b, [N/A]\nNo devices\n"

    gpus = parse_gpus(table)

    assert [(gpu.index, gpu.uuid, gpu.memory_bytes) for gpu in gpus] == [
        (0, "GPU-1a", 81559 * 2**20),
        (1, "GPU-2b", None),
    ]


def test_a_gpu_that_no_driver_knows_keeps_its_name() -> None:
    assert [gpu.uuid for gpu in find_gpus(["7", "MIG-x"])] == ["7", "MIG-x"]
