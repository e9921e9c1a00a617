"""A Ray cluster, this machine's own or one that runs already, and the application on it."""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ensemble.config import ServingConfig
from ensemble.environment import set_ray_environment
from ensemble.errors import ConfigError
from ensemble.planning.machine import Gpu, Node, local_node
from ensemble.serving.deployment_states import DeploymentState, deployment_states, is_running, tell_unhealthy
from ensemble.serving.namespace import NAMESPACE
from ensemble.serving.replica_picker import ServeReplicaPicker

OBJECT_STORE_BYTES = 100 * 2**20
"""Requests do not pass through Ray's object store; this is near the least that Ray accepts."""
CONNECT_TIMEOUT_S = 5.0
SECRET_TIMEOUT_S = 60.0
FACTS_TIMEOUT_S = 60.0
"""A node may have to start a process for the answer."""
POLL_S = 1.0
"""Asking Serve costs some 50 ms of CPU."""


@contextmanager
def ray_cluster(
    address: str, *, temp_dir: Path | None = None, num_cpus: int | None = None, num_gpus: int | None = None
) -> Iterator[None]:
    """Connect to the cluster at ``address``, or start one of this process when it is empty; leave it at the end.

    Raises:
        ConfigError: no cluster answers there.
    """
    set_ray_environment()
    check_address(address)
    try:
        if address:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
        else:
            ray.init(
                namespace=NAMESPACE,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                object_store_memory=OBJECT_STORE_BYTES,
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                _temp_dir=str(temp_dir) if temp_dir else None,
            )
    except Exception as error:  # Ray has nothing narrower for a node that does not come up in time.
        problem = f"no Ray cluster can be used at {address or 'this machine'} ({error})"
        raise ConfigError("address", problem, f"start one, of Ray {ray.__version__}") from error
    try:
        yield
    finally:
        if not address:
            serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def check_address(address: str) -> None:
    """Check that somebody listens there: Ray itself would try for minutes. Other forms are left to Ray.

    Raises:
        ConfigError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            "address", f"nobody answers on {address} ({error})", "give a running Ray cluster's, or leave it out"
        ) from error


@ray.remote(num_cpus=0, max_restarts=-1)
class SecretKeeper:
    """Keeps an application's secret, so that redeployed routers and running members agree on it."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def get(self) -> str:
        """Give the secret."""
        return self._secret


def application_secret(application: str) -> str:
    """Give the application's secret; the first deployment on a cluster makes it.

    Raises:
        ConfigError: the cluster does not start the actor that keeps it, or that does not answer.
    """
    keeper = SecretKeeper.options(  # type: ignore[attr-defined]
        name=f"{application}-secret", namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote(secrets.token_urlsafe(32))
    try:
        secret: str = ray.get(keeper.get.remote(), timeout=SECRET_TIMEOUT_S)
    except GetTimeoutError as error:
        problem = f"its secret's keeper did not answer within {SECRET_TIMEOUT_S:.0f} s"
        raise ConfigError(application, problem, "see with `ray status` whether the cluster starts actors") from error
    return secret


def remove_application(name: str, *, waits: bool = True) -> None:
    """Take an application away, with the keeper of its secret; nothing happens when it is not there.

    Raises:
        ConfigError: Serve does not answer, or takes more than a minute.
    """
    try:
        serve.delete(name, _blocking=waits)
        with suppress(ValueError):  # there is none
            ray.kill(ray.get_actor(f"{name}-secret", namespace=NAMESPACE))
    except (RayError, RayServeException, TimeoutError) as error:
        raise ConfigError(name, f"it could not be taken off the cluster ({error})", "see `serve status`") from error


def replica_pickers(application: str, deployments: Sequence[str]) -> dict[str, ServeReplicaPicker]:
    """Give what finds the replicas of an application's deployments from a process that is connected to its cluster."""
    return {name: ServeReplicaPicker(name, serve.get_deployment_handle(name, application)) for name in deployments}


def cluster_nodes(*, with_facts: bool) -> tuple[Node, ...]:
    """Describe the cluster's nodes as Ray counts them; ``with_facts`` asks each one for its memory and its GPUs'.

    Where a node does not answer in time, its memory is what Ray gives away of it, and its GPUs' is unknown.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    known = _ask_nodes([node["NodeID"] for node in alive]) if with_facts else {}
    return tuple(_describe_node(node, known.get(node["NodeID"])) for node in alive)


def _describe_node(node: dict[str, Any], known: Node | None) -> Node:
    resources = node["Resources"]
    reservable_bytes = int(resources.get("memory", 0.0))
    gpus = known.gpus if known else ()
    return Node(
        name=str(node.get("NodeName") or node["NodeID"]),
        cpus=float(resources.get("CPU", 0.0)),
        memory_bytes=known.memory_bytes if known else reservable_bytes,
        reservable_bytes=reservable_bytes,
        gpus=tuple(gpus[i] if i < len(gpus) else Gpu(index=i) for i in range(int(resources.get("GPU", 0)))),
    )


def _ask_nodes(node_ids: list[str]) -> dict[str, Node]:
    own = ray.get_runtime_context().get_node_id()
    node_by_id = {own: local_node()} if own in node_ids else {}
    ask = ray.remote(num_cpus=0)(local_node)
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(): node_id
        for node_id in node_ids
        if node_id != own
    }
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=FACTS_TIMEOUT_S) if asked else ([], [])
    for reference in late:
        ray.cancel(reference)
    for reference in answered:
        with suppress(RayError):  # the node died meanwhile
            node_by_id[asked[reference]] = ray.get(reference)
    return node_by_id


def run_application(
    application: Application,
    name: str,
    serving: ServingConfig,
    *,
    on_progress: Callable[[tuple[DeploymentState, ...]], None],
) -> None:
    """Deploy, in place when an application of that name runs, and return when it is up.

    Raises:
        ConfigError: it did not come up, with what Serve says about it; a new one is taken away.
    """
    # Serve's default is one HTTP proxy; our endpoint needs none.
    serve.start(proxy_location="EveryNode" if serving.http_proxy else "Disabled")
    was_running = is_running(name)
    failures: list[BaseException] = []

    def deploy() -> None:
        try:
            serve.run(application, name=name, route_prefix=f"/{name}" if serving.http_proxy else None)
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            failures.append(error)

    thread = Thread(target=deploy, name="deploy", daemon=True)
    thread.start()
    until_s = time.monotonic() + serving.start_timeout_s
    while thread.is_alive():
        thread.join(POLL_S)
        on_progress(deployment_states(name))
        if thread.is_alive() and time.monotonic() > until_s:
            story = tell_unhealthy(name)
            _give_up(name, was_running=was_running)
            raise ConfigError(
                "serving.start_timeout_s", f"{name} was not up after {serving.start_timeout_s:g} s", story
            )
    if failures:
        story = tell_unhealthy(name)
        _give_up(name, was_running=was_running)
        raise ConfigError(name, f"it did not come up: {story}", "mend that and deploy again") from failures[0]


def _give_up(name: str, *, was_running: bool) -> None:
    """Leave nothing of a new application that did not come up; what is told is why it did not."""
    if not was_running:
        with suppress(ConfigError):
            remove_application(name, waits=False)
