"""What must hold of the RayService and the spec that it serves; each policy gives its complaints."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.manifests.sizing import WorkerSize, check_workers
from ensemble.planning.demand import build_demands
from ensemble.serving.application import SHUTDOWN_MARGIN_S
from ensemble.spec_file import load_spec
from tests.manifests.rendered import (
    OF_KUBERAY,
    Resource,
    Resources,
    containers,
    groups,
    of_kind,
    pods,
    ray_cluster,
    ray_service,
    serve_config,
    spec_text,
)

GRPC = "serve-grpc"


def load_rendered_spec(resources: Resources) -> Spec:
    """Read the spec as a pod would."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        path.write_text(spec_text(resources), encoding="utf-8")
        return load_spec(path)


def ray_version_is_the_pinned_one(resources: Resources) -> Iterator[str]:
    """The cluster runs what the image has."""
    named = ray_cluster(resources)["rayVersion"]
    if named != version("ray"):
        yield f"rayVersion is {named}, and the program's Ray is {version('ray')}"


def kuberay_finds_its_pods(resources: Resources) -> Iterator[str]:
    """No template of Ray's has a label in place of one that KubeRay's own services select by."""
    for name, group in groups(resources).items():
        labels = group["template"]["metadata"]["labels"]
        yield from (f"{name} has a {label} of its own" for label in OF_KUBERAY if label in labels)


def workers_are_ready_by_our_health(resources: Resources) -> Iterator[str]:
    """A worker gets requests while its router says SERVING."""
    for name, group in groups(resources).items():
        container = group["template"]["spec"]["containers"][0]
        if name != "head" and container.get("readinessProbe", {}).get("grpc", {}).get("port") != 9000:
            yield f"{name} is not asked for its health by gRPC"
        if "livenessProbe" in container:
            yield f"{name} has a liveness probe in place of KubeRay's"
    for name, pod in pods(resources).items():
        if not name.startswith("ray ") and "readinessProbe" not in pod["spec"]["containers"][0]:
            yield f"{name} has no readiness probe"


def ports_agree(resources: Resources) -> Iterator[str]:
    """Spec, containers, service, route and monitor name the same ports."""
    spec = load_rendered_spec(resources)
    for name, group in groups(resources).items():
        ports = {port["name"]: port["containerPort"] for port in group["template"]["spec"]["containers"][0]["ports"]}
        if ports.get(GRPC) != spec.router.port:
            yield f"{name} does not declare the router's port"
        if str(ports.get("metrics")) != group["rayStartParams"].get("metrics-export-port"):
            yield f"{name} exports metrics on another port than it declares"
    yield from _service_agrees(resources, spec)
    yield from _monitor_agrees(resources)


def _monitor_agrees(resources: Resources) -> Iterator[str]:
    for monitor in of_kind(resources, "PodMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"].items()
        selected = {name: pod for name, pod in pods(resources).items() if selector <= pod["metadata"]["labels"].items()}
        if not selected:
            yield "the monitor selects nobody"
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for name, pod in selected.items():
                declared = [port["name"] for one in containers(pod) for port in one.get("ports", [])]
                if endpoint["port"] not in declared:
                    yield f"the monitor asks {name} on a port that it has not"


def _service_agrees(resources: Resources, spec: Spec) -> Iterator[str]:
    service = ray_service(resources)["spec"]["serveService"]
    ports = {port["name"]: port for port in service["spec"]["ports"]}
    grpc = ports.get(GRPC, {})
    if grpc.get("port") != spec.router.port or grpc.get("appProtocol") != "kubernetes.io/h2c":
        yield "the service does not offer gRPC on the router's port"
    for route in of_kind(resources, "GRPCRoute"):
        backends = [backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]]
        if backends != [{"name": service["metadata"]["name"], "port": spec.router.port}]:
            yield "the route leads elsewhere than to the service"


def head_does_no_work(resources: Resources) -> Iterator[str]:
    """Nothing is placed on the head, and no request goes there."""
    if groups(resources)["head"]["rayStartParams"].get("num-cpus") != "0":
        yield "the head has cores to give"
    if ray_service(resources)["spec"].get("excludeHeadPodFromServeSvc") is not True:
        yield "the head is behind the service"
    for demand in build_demands(load_rendered_spec(resources), absent="anywhere"):
        if not demand.cpus:
            yield f"{demand.where} asks for no cores, and may land on the head"


def drains_end_in_time(resources: Resources) -> Iterator[str]:
    """A replica drains within its node's drain, and that within the pod's grace period."""
    replica_s = load_rendered_spec(resources).serving.drain_timeout_s + SHUTDOWN_MARGIN_S
    for name, group in groups(resources).items():
        pod = group["template"]["spec"]
        environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        node_s = float(environment.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or 0)
        if not replica_s < node_s < pod.get("terminationGracePeriodSeconds", 30):
            yield f"{name}: a replica drains {replica_s:g} s, the node {node_s:g} s, within too short a grace period"


def workers_hold_the_spec(resources: Resources) -> Iterator[str]:
    """A router on every worker, and a place for each replica by the plan."""
    spec = load_rendered_spec(resources)
    (group,) = (group for name, group in groups(resources).items() if name != "head")
    if group["replicas"] != spec.router.replicas or spec.router.max_per_node != 1:
        yield f"{group['replicas']} workers, and {spec.router.replicas} routers of {spec.router.max_per_node} a node"
    size = worker_size(group)
    try:
        check_workers(spec, size)
    except ConfigError as error:
        yield str(error)
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    if (float(limits["cpu"]), int(limits.get("nvidia.com/gpu", 0))) != (size.cpus, size.gpus):
        yield "Ray is told of other cores or GPUs than the pod has"
    if not group["minReplicas"] == group["replicas"] == group["maxReplicas"]:
        yield "the number of workers is not fixed"


def worker_size(group: Resource) -> WorkerSize:
    """Give a group's size as its manifest has it."""
    params, limits = group["rayStartParams"], group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return WorkerSize(
        workers=group["replicas"],
        cpus=int(params.get("num-cpus", 0)),
        memory_gib=int(limits["memory"].removesuffix("Gi")),
        gpus=int(params.get("num-gpus", 0)),
    )


def serve_config_deploys_the_spec(resources: Resources) -> Iterator[str]:
    """The import path exists, and the path of the spec is where every pod mounts it."""
    (application,) = serve_config(resources)["applications"]
    module, _, attribute = application["import_path"].partition(":")
    if not hasattr(importlib.import_module(module), attribute):
        yield f"there is no {application['import_path']}"
    try:
        name = load_rendered_spec(resources).name
    except ConfigError as error:
        yield str(error)
        return
    if application["name"] != name:
        yield f"the application is named {application['name']}, and the spec {name}"
    path = Path(application["args"]["spec"])
    for group, template in groups(resources).items():
        mounts = template["template"]["spec"]["containers"][0]["volumeMounts"]
        if not any(mount["name"] == "spec" and Path(mount["mountPath"]) / "spec.yaml" == path for mount in mounts):
            yield f"{group} has no {path}"


def models_are_verified(resources: Resources) -> Iterator[str]:
    """Where a volume of models is mounted, it is read-only, and checked before Ray starts."""
    for name, group in groups(resources).items():
        pod = group["template"]["spec"]
        if not any(volume["name"] == "models" for volume in pod["volumes"]):
            continue
        checks = [
            one for one in pod.get("initContainers", []) if one["command"][:3] == ["sha256sum", "--check", "--strict"]
        ]
        if not checks:
            yield f"{name} starts on models that nobody checked"
        for container in [*checks, pod["containers"][0]]:
            if not any(_is_read_only_models(mount) for mount in container["volumeMounts"]):
                yield f"{name}/{container['name']} does not mount the models read-only"


def _is_read_only_models(mount: Resource) -> bool:
    return bool(mount["name"] == "models" and mount["mountPath"] == "/models" and mount.get("readOnly"))


def head_survives(resources: Resources) -> Iterator[str]:
    """In production the head's state lies in Redis, and Ray asks for its token."""
    cluster = ray_cluster(resources)
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "Ray answers without a token"
    store = cluster.get("gcsFaultToleranceOptions", {})
    address = f"{store.get('redisAddress', '')}".split(":")[0]
    if address not in [one["metadata"]["name"] for one in of_kind(resources, "Service")]:
        yield "there is no store for the head's state"
    if "valueFrom" not in store.get("redisPassword", {}):
        yield "the store's password is not in a secret"
