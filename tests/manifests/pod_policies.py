"""What must hold of every pod; each policy gives its complaints."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ensemble import __version__
from tests.manifests.rendered import Resource, Resources, containers, groups, of_kind, pods, ray_cluster

OUR_IMAGE = re.compile(rf"([\w./-]+/)?ensemble-serving:{re.escape(__version__)}(-[\w-]+)?")
NODE_LOCAL_DNS = "169.254.20.10/32"
BY_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")


def no_privileges(resources: Resources) -> Iterator[str]:
    """Nobody is root, nobody may become it, nothing of the node is visible."""
    for name, pod in pods(resources).items():
        spec, security = pod["spec"], pod["spec"].get("securityContext", {})
        if not security.get("runAsNonRoot") or not security.get("runAsUser"):
            yield f"{name} may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name} has no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name} gets a token of the API server"
        yield from (f"{name} has {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
        yield from (f"{name} sees the node's files" for volume in spec.get("volumes", []) if "hostPath" in volume)
        for container in containers(pod):
            yield from _container_privileges(f"{name}/{container['name']}", container)


def _container_privileges(name: str, container: Resource) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("privileged") or security.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may gain privileges"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{name} keeps capabilities"
    if security.get("readOnlyRootFilesystem") is not True:
        yield f"{name} writes to its image"
    yield from (f"{name} takes a port of the node" for port in container.get("ports", []) if "hostPort" in port)


def images_are_pinned(resources: Resources) -> Iterator[str]:
    """Ours by the program's version, others by digest."""
    for name, pod in pods(resources).items():
        for container in containers(pod):
            if not BY_DIGEST.fullmatch(container["image"]) and not OUR_IMAGE.fullmatch(container["image"]):
                yield f"{name}/{container['name']}: {container['image']} is not pinned"


def images_are_by_digest(resources: Resources) -> Iterator[str]:
    """In production, all by digest."""
    for name, pod in pods(resources).items():
        for container in containers(pod):
            if not BY_DIGEST.fullmatch(container["image"]):
                yield f"{name}/{container['name']}: {container['image']} has no digest"


def resources_are_bounded(resources: Resources) -> Iterator[str]:
    """Everyone asks for what it needs, and memory is never promised twice."""
    for name, pod in pods(resources).items():
        for container in containers(pod):
            amounts = container.get("resources", {})
            asked, most = amounts.get("requests", {}), amounts.get("limits", {})
            if not {"cpu", "memory"} <= asked.keys() or not {"cpu", "memory"} <= most.keys():
                yield f"{name}/{container['name']} lacks requests or limits"
            elif asked["memory"] != most["memory"]:
                yield f"{name}/{container['name']} asks for less memory than it may take"


def references_resolve(resources: Resources) -> Iterator[str]:
    """ConfigMaps and service accounts that pods name are there."""
    maps = {one["metadata"]["name"] for one in of_kind(resources, "ConfigMap")}
    accounts = {one["metadata"]["name"] for one in of_kind(resources, "ServiceAccount")}
    for name, pod in pods(resources).items():
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                yield f"{name}: there is no ConfigMap {volume['configMap']['name']}"
        if pod["spec"].get("serviceAccountName") not in accounts:
            yield f"{name}: there is no service account {pod['spec'].get('serviceAccountName')}"
        claims = {volume["name"] for volume in pod["spec"].get("volumes", [])} | {"data"}
        for container in containers(pod):
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            yield from (f"{name}: there is no volume {missing}" for missing in mounted - claims)


def budgets_hold_somebody(resources: Resources) -> Iterator[str]:
    """Each disruption budget selects pods, and each kind of pod has one."""
    budgets = of_kind(resources, "PodDisruptionBudget")
    for name, pod in pods(resources).items():
        labels = pod["metadata"]["labels"].items()
        if not any(one["spec"]["selector"]["matchLabels"].items() <= labels for one in budgets):
            yield f"{name} has no disruption budget"
    for budget in budgets:
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        if not any(wanted <= pod["metadata"]["labels"].items() for pod in pods(resources).values()):
            yield f"{budget['metadata']['name']} selects nobody"


def drains_go_on(resources: Resources) -> Iterator[str]:
    """One worker at a time may go; a head only where its state is kept; both counted without a scale."""
    of_ray = {name: pod["metadata"]["labels"].items() for name, pod in pods(resources).items() if name[:4] == "ray "}
    for budget in of_kind(resources, "PodDisruptionBudget"):
        spec, where = budget["spec"], budget["metadata"]["name"]
        selected = [name for name, labels in of_ray.items() if spec["selector"]["matchLabels"].items() <= labels]
        least = [_least_available(resources, name.removeprefix("ray ")) for name in selected]
        if selected and (len(selected) > 1 or "maxUnavailable" in spec or spec.get("minAvailable") != least[0]):
            yield f"{where} has {spec}, and of {selected} always {least} must be there"


def _least_available(resources: Resources, group: str) -> int:
    if group == "head":
        return 0 if "gcsFaultToleranceOptions" in ray_cluster(resources) else 1
    replicas: int = groups(resources)[group]["replicas"]
    return replicas - 1


def network_is_closed(resources: Resources) -> Iterator[str]:
    """Everything is denied, names resolve, the API server is reached, and no rule lets everyone in."""
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(resources, "NetworkPolicy")}
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if closed not in policies.values():
        yield "no policy denies everything"
    peers = [peer for spec in policies.values() for rule in spec.get("egress", []) for peer in rule.get("to", [])]
    if {"ipBlock": {"cidr": NODE_LOCAL_DNS}} not in peers:
        yield "names do not resolve where a cache on the node answers"
    egress_ports = {
        port["port"] for spec in policies.values() for rule in spec.get("egress", []) for port in rule.get("ports", [])
    }
    yield from (f"nobody may reach port {port}" for port in {53, 443, 6443} - egress_ports)
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            if not rule.get("from"):
                yield f"{name} lets everyone in"
            if any("ipBlock" in peer for peer in rule.get("from", [])):
                yield f"{name} lets addresses in, whoever has them"
        if any(not rule.get("ports") and not rule.get("to") for rule in spec.get("egress", [])):
            yield f"{name} lets everything out"
