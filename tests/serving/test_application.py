"""What Serve is told about each deployment, looked at without a cluster."""

from __future__ import annotations

from typing import Any, cast

import pytest
from ray.serve import Application, Deployment

from ensemble.app import build_application
from ensemble.config import Spec


def bound_deployments(spec: Spec) -> dict[str, Deployment]:
    """Give every deployment as it is bound, by name."""
    router = build_application(spec, "secret")._bound_deployment
    called: dict[str, Application] = cast("tuple[Any, ...]", router.init_args)[1]
    deployments = [router, *(part._bound_deployment for part in called.values())]
    return {deployment.name: deployment for deployment in deployments}


def actor_options(spec: Spec) -> dict[str, dict[str, Any]]:
    """Give what Ray is told about every deployment's replicas, by the deployment's name."""
    return {name: dict(deployment.ray_actor_options or {}) for name, deployment in bound_deployments(spec).items()}


@pytest.fixture
def spec() -> Spec:
    """Make a spec with a member on a GPU and one without."""
    echo = {"family": "x", "engine": {"type": "echo"}}
    return Spec.model_validate(
        {
            "version": 1,
            "members": [
                {**echo, "name": "cpu", "resources": {"memory_gib": 0.5}},
                {**echo, "name": "gpu", "resources": {"gpus": 0.25}},
            ],
            "ensembles": [{"name": "default", "members": ["cpu", "gpu"]}],
        }
    )


def test_a_replica_without_a_gpu_sees_none(spec: Spec) -> None:
    env_vars = {name: options["runtime_env"]["env_vars"] for name, options in actor_options(spec).items()}

    assert {name for name, names in env_vars.items() if names.get("CUDA_VISIBLE_DEVICES") == ""} == {
        "member-cpu",
        "voting",
        "router",
    }


def test_a_replica_with_a_gpu_is_left_to_ray(spec: Spec) -> None:
    assert "CUDA_VISIBLE_DEVICES" not in actor_options(spec)["member-gpu"]["runtime_env"]["env_vars"]


def test_the_routers_own_variables_stay(spec: Spec) -> None:
    env_vars = actor_options(spec)["router"]["runtime_env"]["env_vars"]

    assert env_vars["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] == "0"


def test_memory_is_reserved_in_bytes(spec: Spec) -> None:
    options = actor_options(spec)

    assert options["member-cpu"]["memory"] == 2**29


PARALLEL = {
    "name": "wide",
    "family": "x",
    "checkpoint": "org/name",
    "engine": {"type": "vllm", "tensor_parallel_size": 2, "pipeline_parallel_size": 2},
    "resources": {"cpus": 3, "gpus": 4, "memory_gib": 2},
}


def test_a_parallel_member_reserves_a_bundle_a_gpu() -> None:
    spec = Spec.model_validate(
        {"version": 1, "members": [PARALLEL], "ensembles": [{"name": "default", "members": ["wide"]}]}
    )

    config = bound_deployments(spec)["member-wide"]._replica_config

    first = {"GPU": 1.0, "CPU": 3.0, "memory": 2 * 2**30}
    assert config.placement_group_bundles == [first, {"GPU": 1.0}, {"GPU": 1.0}, {"GPU": 1.0}]
    assert config.placement_group_strategy == "PACK"
    # Its engine's own processes take the GPUs.
    assert not (config.ray_actor_options or {}).get("num_gpus")


def test_other_members_reserve_no_bundles(spec: Spec) -> None:
    assert {one._replica_config.placement_group_bundles for one in bound_deployments(spec).values()} == {None}


def test_a_replica_on_a_gpu_is_replaced_once_the_old_one_has_left_it(spec: Spec) -> None:
    surges = {name: one._deployment_config.max_surge_percent for name, one in bound_deployments(spec).items()}

    assert surges == {"member-cpu": 100, "member-gpu": 0, "voting": 100, "router": 100}
