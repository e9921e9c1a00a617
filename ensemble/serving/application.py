"""The deployments of one application, bound together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ray import serve
from ray.serve import Application

from ensemble.config import ResourcesConfig, ServingConfig
from ensemble.serving.replica import ServerReplica, StartServer

MAX_ONGOING = 1_000_000
"""Requests do not pass through Serve; a replica limits itself, so Serve must not."""
SHUTDOWN_MARGIN_S = 10.0
CONSTRUCTOR_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """One deployment: its name, how its replicas start their server, and what they need.

    A deployment whose ``version`` is that of the running one keeps its replicas.
    """

    name: str
    version: str
    start: StartServer
    replicas: int
    resources: ResourcesConfig
    max_per_node: int = 0
    """Replicas on one node at most; 0 is no bound."""
    num_parallel: int = 1
    """GPUs that one replica's engine splits its model over, each for a process of the engine's own."""
    env_vars: Mapping[str, str] = field(default_factory=dict)


def bind_application(
    router: DeploymentPlan, called: Mapping[str, DeploymentPlan], serving: ServingConfig
) -> Application:
    """Bind the router to the deployments that it calls; it finds their pickers by the mapping's names."""
    handles = {name: _bind(plan, {}, serving) for name, plan in called.items()}
    return _bind(router, handles, serving)


def _bind(plan: DeploymentPlan, handles: Mapping[str, Application], serving: ServingConfig) -> Application:
    deployment = serve.deployment(ServerReplica).options(  # type: ignore[attr-defined]
        name=plan.name,
        num_replicas=plan.replicas,
        ray_actor_options=_actor_options(plan),
        **_placement(plan),
        max_ongoing_requests=MAX_ONGOING,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=serving.drain_timeout_s + SHUTDOWN_MARGIN_S,
        health_check_period_s=serving.health_check_period_s,
        health_check_timeout_s=serving.health_check_timeout_s,
        max_constructor_retry_count=CONSTRUCTOR_TRIES,
        max_replicas_per_node=plan.max_per_node or None,
        # Old replicas count against a node's bound and hold a GPU's share: a new one might wait for them for ever.
        max_surge_percent=0 if plan.max_per_node or plan.resources.gpus else 100,
    )
    # Serve takes a random version where none is set, and then replaces what has not changed; its option is closed.
    deployment._version = plan.version  # noqa: SLF001
    application: Application = deployment.bind(plan.start, dict(handles), serving.drain_timeout_s)
    return application


def _actor_options(plan: DeploymentPlan) -> dict[str, object]:
    resources = plan.resources
    # A parallel engine's own processes take the GPUs of the placement group, all of them.
    num_gpus = 0.0 if plan.num_parallel > 1 else resources.gpus
    options: dict[str, object] = {"num_cpus": resources.cpus, "num_gpus": num_gpus}
    if resources.memory_gib:
        options["memory"] = int(resources.memory_gib * 2**30)
    # Ray hides no GPU from a replica that reserves none.
    hidden = {} if resources.gpus else {"CUDA_VISIBLE_DEVICES": ""}
    options["runtime_env"] = {"env_vars": {**hidden, **plan.env_vars}}
    return options


def _placement(plan: DeploymentPlan) -> dict[str, object]:
    """Reserve a bundle a GPU for a parallel engine, on one node where that is possible; the replica is in the first."""
    if plan.num_parallel == 1:
        return {}
    resources = plan.resources
    own: dict[str, float] = {"CPU": resources.cpus, "memory": int(resources.memory_gib * 2**30)}
    first = {"GPU": 1.0, **{name: size for name, size in own.items() if size}}
    bundles = [first, *({"GPU": 1.0} for _ in range(plan.num_parallel - 1))]
    return {"placement_group_bundles": bundles, "placement_group_strategy": "PACK"}
