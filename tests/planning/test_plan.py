"""A plan says what goes where, and a refusal says which GPU, what was wanted, what is there, and what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ensemble.config import ResourcesConfig
from ensemble.errors import CheckpointError, ConfigError
from ensemble.planning.demand import Demand, build_demands
from ensemble.planning.fit import USABLE_SHARE
from ensemble.planning.machine import Node, make_nodes
from ensemble.planning.plan import Plan, plan_demands, plan_spec
from tests.planning.shapes import (
    FP8_BYTES,
    LLAMA_8B,
    SHAPE,
    dummy_member,
    make_spec,
    save_shape,
    save_weights,
)

GIB = 2**30
H100 = make_nodes(1, gpus=1, gpu_memory_gib=80, cpus=16, memory_gib=128)


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_shape(tmp_path_factory.mktemp("llama-8b"), LLAMA_8B)


def demand(
    name: str = "m", *, replicas: int = 1, cpus: float = 0.0, memory_gib: float = 0.0, gpus: float = 0.0
) -> Demand:
    return Demand(
        where=f"{name}.resources", name=name, replicas=replicas, cpus=cpus, host_bytes=int(memory_gib * GIB), gpus=gpus
    )


def refuse(*demands: Demand, nodes: tuple[Node, ...] = ()) -> ConfigError:
    """Give the refusal on two nodes with four cores and 8 GiB, or on the nodes given."""
    with pytest.raises(ConfigError) as caught:
        plan_demands(demands, nodes or make_nodes(2, gpus=0, gpu_memory_gib=0, cpus=4, memory_gib=8))
    return caught.value


def members_by_gpu(plan: Plan) -> dict[tuple[int, int], set[str]]:
    found: dict[tuple[int, int], set[str]] = {}
    for replica in plan.replicas:
        for gpu in replica.gpus:
            found.setdefault(gpu, set()).add(replica.demand.name)
    return found


def test_what_fits_the_nodes_is_taken() -> None:
    plan = plan_demands(
        [demand(replicas=2, cpus=4, memory_gib=8)], make_nodes(2, gpus=0, gpu_memory_gib=0, cpus=4, memory_gib=8)
    )

    assert sorted(replica.node for replica in plan.replicas) == [0, 1]


def test_more_memory_than_the_largest_node_has_is_refused() -> None:
    assert refuse(demand(memory_gib=9)).where == "m.resources.memory_gib"


def test_more_memory_than_all_nodes_have_together_is_refused() -> None:
    assert refuse(demand(memory_gib=6, replicas=3)).where == "resources.memory_gib"


def test_the_cores_of_all_deployments_are_summed() -> None:
    error = refuse(demand(cpus=4, replicas=2), demand("router", cpus=0.5))

    assert error.where == "resources.cpus"
    assert "8.5" in error.problem


def test_the_router_and_the_voters_take_resources_too() -> None:
    echo = {"name": "a", "family": "x", "engine": {"type": "echo"}, "replicas": 3}
    spec = make_spec(echo, router={"cpus": 0.5, "replicas": 2}, voting={"cpus": 4, "replicas": 5})

    demands = build_demands(spec)

    assert {one.where: (one.cpus, one.replicas) for one in demands} == {
        "members[0].resources": (1.0, 3),
        "router": (0.5, 2),
        "voting": (4.0, 5),
    }


def test_what_fits_in_sum_but_on_no_node_is_refused_with_what_is_left() -> None:
    nodes = make_nodes(2, gpus=1, gpu_memory_gib=80, cpus=4, memory_gib=8)

    error = refuse(demand(gpus=0.6, replicas=3), nodes=nodes)

    assert "0.4 of GPU 0 on node-0" in error.problem
    assert "0.4 of GPU 0 on node-1" in error.problem


def test_shares_that_add_up_to_more_than_the_gpu_are_refused(llama_8b: str) -> None:
    spec = make_spec(*(dummy_member(name, llama_8b, gpus=0.35, quantization="fp8") for name in "abc"))

    with pytest.raises(ConfigError, match=r"1\.05, but the machines have 1") as caught:
        plan_spec(spec, H100)

    assert caught.value.where == "resources.gpus"


def test_three_members_share_a_gpu_and_their_caches_get_what_is_left(llama_8b: str) -> None:
    spec = make_spec(*(dummy_member(name, llama_8b, gpus=0.33, quantization="fp8", max_batch=256) for name in "abc"))

    plan = plan_spec(spec, H100)

    assert members_by_gpu(plan) == {(0, 0): {"a", "b", "c"}}
    caches = {replica.cache_bytes for replica in plan.replicas if replica.gpus}
    left = int(80 * GIB * 0.33 * USABLE_SHARE) - FP8_BYTES - 3 * GIB
    assert caches == {left}
    assert sum(replica.gpu_bytes for replica in plan.replicas) <= 80 * GIB


def test_a_cache_gets_no_more_than_it_has_use_for(llama_8b: str) -> None:
    spec = make_spec(dummy_member("a", llama_8b, gpus=1, max_batch=2, max_context=1_000))

    (replica, *_) = plan_spec(spec, H100).replicas

    assert replica.cache_bytes == 2 * 1_000 * 32 * 2 * 8 * 128 * 2


def test_a_checkpoint_that_does_not_fit_its_share_is_refused_with_the_share_that_would_do(llama_8b: str) -> None:
    spec = make_spec(dummy_member("dense", llama_8b, gpus=0.2))

    with pytest.raises(ConfigError) as caught:
        plan_spec(spec, H100)

    error = caught.value
    assert error.where == "members[0].resources.gpus"
    assert [fact for fact in ("dense", "weights 15.0", "reserve 3.0", "80.0 GiB") if fact not in error.problem] == []
    share = float(error.remedy.split("resources.gpus to ")[1].split(" ")[0])
    plan_spec(make_spec(dummy_member("dense", llama_8b, gpus=share)), H100)
    with pytest.raises(ConfigError):
        plan_spec(make_spec(dummy_member("dense", llama_8b, gpus=share - 0.02)), H100)


def test_a_cache_that_no_node_has_memory_for_is_refused_with_figures_and_what_bounds_it(llama_8b: str) -> None:
    member = dummy_member("a", llama_8b, gpus=0, kv_cache_gib=200)

    with pytest.raises(ConfigError, match=r"weights 29\.9, cache 200\.0.*largest node has 128.*kv_cache_gib") as caught:
        plan_spec(make_spec(member), H100)

    assert caught.value.where == "members[0].resources.memory_gib"


def test_a_checkpoint_larger_than_any_gpu_is_told_to_be_split(llama_8b: str) -> None:
    small = make_nodes(1, gpus=2, gpu_memory_gib=12, cpus=16, memory_gib=128)

    with pytest.raises(ConfigError, match="tensor_parallel_size") as caught:
        plan_spec(make_spec(dummy_member("dense", llama_8b, gpus=1)), small)

    assert "12.0 GiB" in caught.value.problem
    split = dummy_member("dense", llama_8b, gpus=2, tensor_parallel_size=2)
    assert members_by_gpu(plan_spec(make_spec(split), small)) == {(0, 0): {"dense"}, (0, 1): {"dense"}}


def test_pipeline_stages_may_lie_on_several_nodes(llama_8b: str) -> None:
    nodes = make_nodes(3, gpus=1, gpu_memory_gib=80, cpus=16, memory_gib=128)
    spec = make_spec(dummy_member("deep", llama_8b, gpus=2, pipeline_parallel_size=2))

    plan = plan_spec(spec, nodes)

    assert len(members_by_gpu(plan)) == 2


def test_tensor_parallel_sizes_that_do_not_divide_the_heads_are_refused_by_field(tmp_path: Path) -> None:
    spec = make_spec(dummy_member("odd", save_shape(tmp_path, SHAPE), gpus=3, tensor_parallel_size=3))

    with pytest.raises(ConfigError, match="8 attention heads") as caught:
        plan_spec(spec, H100)

    assert caught.value.where == "members[0].engine.tensor_parallel_size"


def test_a_checkpoint_that_cannot_be_measured_is_refused_by_member(tmp_path: Path) -> None:
    member = dummy_member("ghost", str(tmp_path / "nowhere"), gpus=0.5)

    with pytest.raises(CheckpointError, match="member ghost") as caught:
        plan_spec(make_spec(member), H100)

    assert caught.value.where == "members[0].checkpoint"


def test_a_checkpoint_of_another_machine_is_left_open_where_that_is_said(tmp_path: Path) -> None:
    member = dummy_member("ghost", str(tmp_path / "nowhere"), gpus=0.5)

    (replica, *_) = plan_spec(make_spec(member), H100, absent="anywhere").replicas

    assert replica.demand.footprint is None


def fused_member(checkpoint: str, other: str) -> dict[str, Any]:
    return {
        "name": "group",
        "family": "group",
        "checkpoint": checkpoint,
        "engine": {"type": "fused", "others": [other], "max_context": 64},
    }


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return save_weights(tmp_path / "tiny", {"a.weight": np.zeros((4, 4), np.float32)})


def test_another_of_a_group_that_is_not_there_is_refused_by_its_field(tiny: str, tmp_path: Path) -> None:
    spec = make_spec(fused_member(tiny, str(tmp_path / "nowhere")))

    with pytest.raises(CheckpointError, match="nowhere") as caught:
        build_demands(spec, absent="hub")

    assert caught.value.where == "members[0].engine.others[0]"


@pytest.mark.usefixtures("offline")
def test_a_group_is_left_open_only_for_those_that_come_from_the_hub(tiny: str, tmp_path: Path) -> None:
    hub, missing = "nobody/has-this-model", str(tmp_path / "nowhere")

    for checkpoint, other in ((tiny, hub), (hub, tiny), (hub, hub)):
        assert build_demands(make_spec(fused_member(checkpoint, other)), absent="hub")[0].footprint is None
    with pytest.raises(CheckpointError, match="nowhere") as caught:
        build_demands(make_spec(fused_member(hub, missing)), absent="hub")

    assert caught.value.where == "members[0].engine.others[0]"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_parallel_sizes_need_as_many_gpus() -> None:
    with pytest.raises(ValidationError, match=r"is 4, but resources\.gpus is 1"):
        make_spec(dummy_member("wide", "org/name", gpus=1, tensor_parallel_size=2, pipeline_parallel_size=2))


def test_gpus_above_one_are_whole() -> None:
    with pytest.raises(ValidationError, match="only whole ones"):
        ResourcesConfig(gpus=1.5)
