"""Puts the parts together: from a spec to an application on a cluster."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ray.serve import Application

from ensemble import __version__
from ensemble.checkpoints.store_pin import pin_stored
from ensemble.config import MemberConfig, ResourcesConfig, RouterConfig, Spec
from ensemble.errors import ConfigError
from ensemble.planning.plan import Plan, plan_spec
from ensemble.replica_servers import ROUTER, VOTING, member_deployment, start_member, start_router, start_voting
from ensemble.rpc.certificates import ServerCertificates
from ensemble.serving.application import DeploymentPlan, bind_application
from ensemble.serving.cluster import application_secret, cluster_nodes, run_application
from ensemble.serving.deployment_states import DeploymentState, is_running
from ensemble.serving.feedback_store import end_keepers
from ensemble.spec_file import load_calibrations, load_spec, parse_spec

FILES = "/etc/ensemble"
"""Where manifests put a spec's files."""
ONE_LOOP = {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0", "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""The router's server and Serve's choice of replicas share one event loop: a second costs a thread switch a call."""


def build_application(spec: Spec, secret: str) -> Application:
    """Bind the spec's deployments; they start when the application runs.

    Calibrations are read here, and travel with the router as data: its node need not have the files.

    Raises:
        ConfigError: a calibration cannot be read, or does not fit its ensemble.
    """
    calibrations = {name: one.to_voting() for name, one in load_calibrations(spec).items()}
    called = {
        member_deployment(member.name): DeploymentPlan(
            name=member_deployment(member.name),
            version=_version(spec, secret, member.model_dump_json(exclude={"family", "weight", "replicas"})),
            start=partial(start_member, member, secret, spec.serving.start_timeout_s),
            replicas=member.replicas,
            resources=member.resources,
            num_parallel=member.num_parallel,
        )
        for member in map(_with_digests, spec.members)
    }
    called[VOTING] = DeploymentPlan(
        name=VOTING,
        version=_version(spec, secret, spec.voting.model_dump_json(exclude={"replicas"})),
        start=partial(start_voting, spec.voting.threads, secret),
        replicas=spec.voting.replicas,
        resources=ResourcesConfig(cpus=spec.voting.cpus),
    )
    router = DeploymentPlan(
        name=ROUTER,
        version=_version(spec, secret, f"{spec.model_dump_json()}\n{[one.digest for one in calibrations.values()]}"),
        start=partial(start_router, spec, calibrations, secret),
        replicas=spec.router.replicas,
        resources=ResourcesConfig(cpus=spec.router.cpus),
        max_per_node=spec.router.max_per_node,
        env_vars=ONE_LOOP,
    )
    return bind_application(router, called, spec.serving)


def _with_digests(member: MemberConfig) -> MemberConfig:
    """Write what names in a store mean now: all its replicas run that, and another meaning is a change."""
    engine = member.engine
    if hasattr(engine, "others"):
        engine = engine.model_copy(update={"others": tuple(map(pin_stored, engine.others))})
    return member.model_copy(update={"checkpoint": pin_stored(member.checkpoint), "engine": engine})


def _version(spec: Spec, secret: str, part: str) -> str:
    """Name what a deployment's replicas run, so that an update replaces those alone for which it changed."""
    facts = f"{__version__}\n{spec.serving.revision}\n{secret}\n{part}"
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def application(args: Mapping[str, Any]) -> Application:
    """Build the application of ``args["spec"]``: what a Serve config's ``import_path`` names.

    The spec is a path on every node, or the spec itself: Serve takes a changed config in place, and a path stays the
    same when its file changes. Its own paths are relative to ``args["folder"]`` then, as a file's are to its folder.
    """
    given = args["spec"]
    if isinstance(given, Mapping):
        spec = parse_spec(given, source="args.spec", folder=Path(args.get("folder", FILES)))
    else:
        spec = load_spec(Path(given))
    return build_application(spec, application_secret(spec.name))


def deploy(
    spec: Spec, *, on_progress: Callable[[tuple[DeploymentState, ...]], None], is_own_cluster: bool = True
) -> None:
    """Run the spec on the cluster that this process is connected to; in place when it runs already.

    On ``is_own_cluster``, which is this machine alone, the router's ports and certificates are tried first.

    Raises:
        ConfigError: the machine lacks what the spec asks for, or the application did not come up.
    """
    plan_on_cluster(spec, is_own_cluster=is_own_cluster)
    was_running = is_running(spec.name)
    if is_own_cluster and not was_running:
        check_endpoint(spec.router)
    application = build_application(spec, application_secret(spec.name))
    try:
        run_application(application, spec.name, spec.serving, on_progress=on_progress)
    except ConfigError:
        if not was_running:
            end_keepers(spec.name)
        raise
    if not any(ensemble.feedback for ensemble in spec.ensembles):
        # The replicas that used one are gone by now; with feedback the new replicas' store has ended older ones.
        end_keepers(spec.name)


def plan_on_cluster(spec: Spec, *, is_own_cluster: bool) -> Plan:
    """Plan the spec on the nodes of the cluster that this process is connected to.

    On ``is_own_cluster``, whose checkpoints lie here, only those are left open that come from the hub later.

    Raises:
        ConfigError: it does not fit.
        CheckpointError: a checkpoint cannot be measured.
    """
    nodes = cluster_nodes(with_facts=any(member.engine.type != "echo" for member in spec.members))
    return plan_spec(spec, nodes, absent="hub" if is_own_cluster else "anywhere")


def check_endpoint(router: RouterConfig) -> None:
    """Check that this machine has what the endpoint needs: its ports, and certificates that can be used.

    Raises:
        ConfigError: it has not.
    """
    check_port(router.host, router.port)
    if router.tls is None:
        return
    ServerCertificates(router.tls)
    if router.tls.health_port:
        check_port(router.host, router.tls.health_port, field="router.tls.health_port")


def check_port(host: str, port: int, *, field: str = "router.port") -> None:
    """Check that nobody listens there: router replicas share a port, so a stranger's would go unnoticed.

    Raises:
        ConfigError: somebody does, or the host is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            problem = f"{host}:{port} cannot be had ({error.strerror})"
            raise ConfigError(field, problem, "choose another, or end what holds it") from error
