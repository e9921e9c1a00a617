"""A Ray cluster, this machine's own or one that runs already, and the application on it."""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import ray
from ray import serve
from ray.exceptions import GetTimeoutError
from ray.serve import Application
from ray.serve._private.common import ReplicaState
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from ensemble.config import ResourcesConfig, ServingConfig, set_ray_environment
from ensemble.errors import ConfigError
from ensemble.serving.replica_picker import ServeReplicaPicker

NAMESPACE = "ensemble"
OBJECT_STORE_BYTES = 100 * 2**20
"""Requests do not pass through Ray's object store; this is near the least that Ray accepts."""
CONNECT_TIMEOUT_S = 5.0
SECRET_TIMEOUT_S = 60.0
RESOURCES = (("gpus", "GPU", 1.0), ("cpus", "CPU", 1.0), ("memory_gib", "memory", 2.0**30))
"""Our names, Ray's, and how many of Ray's units one of ours is."""
POLL_S = 1.0
"""Asking Serve costs some 50 ms of CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentState:
    """How far a deployment is: replicas that run, of those wanted, and Serve's own words."""

    name: str
    status: str
    num_running: int
    num_wanted: int
    message: str


@contextmanager
def ray_cluster(address: str, *, temp_dir: Path | None = None, num_cpus: int | None = None) -> Iterator[None]:
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
                _temp_dir=str(temp_dir) if temp_dir else None,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError("address", f"no Ray cluster at {address or 'this machine'} ({error})", "start one") from error
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


def remove_application(name: str) -> None:
    """Take an application away, with the keeper of its secret; nothing happens when it is not there."""
    serve.delete(name)
    with suppress(ValueError):  # there is none
        ray.kill(ray.get_actor(f"{name}-secret", namespace=NAMESPACE))


def router_picker(application: str) -> ServeReplicaPicker:
    """Give what finds the address of an application's router from the process that is connected to its cluster."""
    return ServeReplicaPicker(application, serve.get_app_handle(application))


def check_resources(wanted: Mapping[str, tuple[ResourcesConfig, int]]) -> None:
    """Check that the cluster's nodes have what each deployment's replicas ask for; the keys are places in the spec.

    Raises:
        ConfigError: no node has it for one replica, or all nodes together have too little for all replicas.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    for where, (resources, _) in wanted.items():
        for kind, key, unit in RESOURCES:
            need = getattr(resources, kind)
            most = max((node.get(key, 0.0) / unit for node in nodes), default=0.0)
            if need > most:
                raise ConfigError(
                    f"{where}.{kind}", f"it is {need:g}, but the largest node has {most:g}", "ask for less"
                )
    for kind, key, unit in RESOURCES:
        need = sum(getattr(resources, kind) * replicas for resources, replicas in wanted.values())
        have = sum(node.get(key, 0.0) / unit for node in nodes)
        if need > have:
            raise ConfigError(
                f"resources.{kind}",
                f"all replicas together ask for {need:g}, but the cluster has {have:g}",
                "ask for less",
            )


def run_application(
    application: Application,
    name: str,
    serving: ServingConfig,
    *,
    on_progress: Callable[[tuple[DeploymentState, ...]], None],
) -> None:
    """Deploy, in place when an application of that name runs, and return when it is up.

    Raises:
        ConfigError: it did not come up, with what Serve says about it; when the time was over, a new one is taken away.
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
            story = _story(name)
            if not was_running:
                serve.delete(name, _blocking=False)
            raise ConfigError(
                "serving.start_timeout_s", f"{name} was not up after {serving.start_timeout_s:g} s", story
            )
    if failures:
        raise ConfigError(name, f"it did not come up: {_story(name)}", "mend that and deploy again") from failures[0]


def deployment_states(name: str) -> tuple[DeploymentState, ...]:
    """Say how far each deployment of an application is; nothing when there is no such application."""
    overview = _overview(name)
    if overview is None:
        return ()
    return tuple(
        DeploymentState(
            name=deployment,
            status=state.status.value,
            num_running=state.replica_states.get(ReplicaState.RUNNING, 0),
            num_wanted=sum(state.replica_states.values()),
            message=state.message,
        )
        for deployment, state in overview.deployments.items()
    )


def is_running(name: str) -> bool:
    """Say whether an application of that name is on the cluster."""
    overview = _overview(name)
    return overview is not None and overview.status is not ApplicationStatus.NOT_STARTED


def _overview(name: str) -> ApplicationStatusOverview | None:
    return serve.status().applications.get(name)


def _story(name: str) -> str:
    """Tell what Serve says about deployments that are not healthy: the last line of each message is the cause."""
    states = [state for state in deployment_states(name) if state.status != "HEALTHY" and state.message.strip()]
    lines = [f"{state.name}: {state.message.strip().splitlines()[-1]}" for state in states]
    return "; ".join(lines) or "see Ray Serve's log"
