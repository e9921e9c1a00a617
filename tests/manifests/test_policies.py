"""Every policy holds of every overlay, and each of them sees the fault that it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.manifests import pod_policies, ray_policies
from tests.manifests.rendered import (
    OVERLAYS,
    Resources,
    groups,
    needs_kubectl,
    of_kind,
    ray_cluster,
    ray_service,
    render,
)

pytestmark = needs_kubectl

NAME_LABEL = "app.kubernetes.io/name"

Policy = Callable[[Resources], Iterator[str]]
Fault = Callable[[Resources], object]

EVERYWHERE: tuple[Policy, ...] = (
    pod_policies.no_privileges,
    pod_policies.images_are_pinned,
    pod_policies.resources_are_bounded,
    pod_policies.references_resolve,
    pod_policies.budgets_hold_somebody,
    pod_policies.drains_go_on,
    pod_policies.network_is_closed,
    ray_policies.kuberay_finds_its_pods,
    ray_policies.ray_version_is_the_pinned_one,
    ray_policies.workers_are_ready_by_our_health,
    ray_policies.ports_agree,
    ray_policies.head_does_no_work,
    ray_policies.drains_end_in_time,
    ray_policies.workers_hold_the_spec,
    ray_policies.serve_config_deploys_the_spec,
    ray_policies.models_are_verified,
)
IN_PRODUCTION: tuple[Policy, ...] = (pod_policies.images_are_by_digest, ray_policies.head_survives)


def worker(resources: Resources) -> Any:
    return groups(resources)["workers"]["template"]["spec"]


def container_of(resources: Resources) -> Any:
    return worker(resources)["containers"][0]


def limits_of(resources: Resources) -> Any:
    return container_of(resources)["resources"]["limits"]


def spec_map(resources: Resources) -> Any:
    return next(one for one in of_kind(resources, "ConfigMap") if "spec.yaml" in one["data"])["data"]


def edit_spec(resources: Resources, old: str, new: str) -> None:
    data = spec_map(resources)
    assert old in data["spec.yaml"]
    data["spec.yaml"] = data["spec.yaml"].replace(old, new)


def named(resources: Resources, kind: str, name: str) -> Any:
    return next(one for one in of_kind(resources, kind) if one["metadata"]["name"] == name)


def budget(resources: Resources, name: str) -> Any:
    return named(resources, "PodDisruptionBudget", f"ensemble-{name}")["spec"]


def labels_of_head(resources: Resources) -> Any:
    return groups(resources)["head"]["template"]["metadata"]["labels"]


FAULTS: tuple[tuple[Policy, str, Fault], ...] = (
    (pod_policies.no_privileges, "base", lambda r: worker(r)["securityContext"].pop("runAsUser")),
    (pod_policies.no_privileges, "base", lambda r: worker(r)["securityContext"].pop("seccompProfile")),
    (pod_policies.no_privileges, "base", lambda r: worker(r).update(hostNetwork=True)),
    (pod_policies.no_privileges, "base", lambda r: worker(r)["volumes"].append({"name": "n", "hostPath": {}})),
    (pod_policies.no_privileges, "base", lambda r: worker(r).pop("automountServiceAccountToken")),
    (pod_policies.no_privileges, "base", lambda r: container_of(r)["securityContext"].update(privileged=True)),
    (
        pod_policies.no_privileges,
        "base",
        lambda r: container_of(r)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
    ),
    (pod_policies.no_privileges, "base", lambda r: container_of(r)["securityContext"].pop("readOnlyRootFilesystem")),
    (pod_policies.no_privileges, "overlays/gpu", lambda r: worker(r)["initContainers"][0].pop("securityContext")),
    (pod_policies.images_are_pinned, "base", lambda r: container_of(r).update(image="ensemble-serving:latest")),
    (pod_policies.images_are_pinned, "base", lambda r: container_of(r).update(image="ensemble-serving:0.0.9-cpu")),
    (pod_policies.images_are_pinned, "overlays/gpu", lambda r: worker(r)["initContainers"][0].update(image="busybox")),
    (
        pod_policies.images_are_by_digest,
        "overlays/prod",
        lambda r: container_of(r).update(image="ensemble-serving:0.1.0-cpu"),
    ),
    (pod_policies.resources_are_bounded, "base", lambda r: container_of(r)["resources"]["limits"].pop("memory")),
    (
        pod_policies.resources_are_bounded,
        "base",
        lambda r: container_of(r)["resources"]["requests"].update(memory="1Gi"),
    ),
    (pod_policies.references_resolve, "base", lambda r: r.remove(of_kind(r, "ConfigMap")[0])),
    (pod_policies.references_resolve, "base", lambda r: worker(r).update(serviceAccountName="nobody")),
    (pod_policies.references_resolve, "base", lambda r: worker(r)["volumes"].pop()),
    (
        pod_policies.budgets_hold_somebody,
        "base",
        lambda r: r.remove(named(r, "PodDisruptionBudget", "ensemble-workers")),
    ),
    (
        pod_policies.budgets_hold_somebody,
        "base",
        lambda r: named(r, "PodDisruptionBudget", "ensemble-head")["spec"]["selector"]["matchLabels"].update(a="b"),
    ),
    (pod_policies.drains_go_on, "base", lambda r: budget(r, "head").update(minAvailable=0)),
    (pod_policies.drains_go_on, "base", lambda r: budget(r, "workers").update(minAvailable="50%")),
    (pod_policies.drains_go_on, "base", lambda r: budget(r, "workers").update(minAvailable=2)),
    (pod_policies.drains_go_on, "base", lambda r: budget(r, "workers").update(maxUnavailable=1)),
    (pod_policies.drains_go_on, "base", lambda r: budget(r, "workers")["selector"]["matchLabels"].popitem()),
    (pod_policies.drains_go_on, "overlays/gpu", lambda r: budget(r, "workers").update(minAvailable=1)),
    (pod_policies.drains_go_on, "overlays/prod", lambda r: budget(r, "head").update(minAvailable=1)),
    (pod_policies.network_is_closed, "base", lambda r: r.remove(named(r, "NetworkPolicy", "default-deny"))),
    (pod_policies.network_is_closed, "base", lambda r: r.remove(named(r, "NetworkPolicy", "allow-dns"))),
    (
        pod_policies.network_is_closed,
        "base",
        lambda r: named(r, "NetworkPolicy", "allow-dns")["spec"]["egress"][0]["to"].pop(),
    ),
    (pod_policies.network_is_closed, "base", lambda r: r.remove(named(r, "NetworkPolicy", "allow-api-server"))),
    (
        pod_policies.network_is_closed,
        "base",
        lambda r: named(r, "NetworkPolicy", "allow-clients")["spec"]["ingress"][0].pop("from"),
    ),
    (
        pod_policies.network_is_closed,
        "base",
        lambda r: named(r, "NetworkPolicy", "allow-within")["spec"].update(egress=[{}]),
    ),
    (ray_policies.kuberay_finds_its_pods, "base", lambda r: labels_of_head(r).update({NAME_LABEL: "ensemble"})),
    (ray_policies.ray_version_is_the_pinned_one, "base", lambda r: ray_cluster(r).update(rayVersion="2.59.1")),
    (ray_policies.workers_are_ready_by_our_health, "base", lambda r: container_of(r).pop("readinessProbe")),
    (
        ray_policies.workers_are_ready_by_our_health,
        "base",
        lambda r: container_of(r)["readinessProbe"]["grpc"].update(port=8000),
    ),
    (
        ray_policies.workers_are_ready_by_our_health,
        "overlays/prod",
        lambda r: of_kind(r, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"][0].pop("readinessProbe"),
    ),
    (ray_policies.ports_agree, "base", lambda r: edit_spec(r, "port: 9000", "port: 9001")),
    (ray_policies.ports_agree, "base", lambda r: container_of(r)["ports"].pop()),
    (
        ray_policies.ports_agree,
        "base",
        lambda r: groups(r)["workers"]["rayStartParams"].update({"metrics-export-port": "8081"}),
    ),
    (
        ray_policies.ports_agree,
        "base",
        lambda r: ray_service(r)["spec"]["serveService"]["spec"]["ports"][0].pop("appProtocol"),
    ),
    (
        ray_policies.ports_agree,
        "base",
        lambda r: of_kind(r, "PodMonitor")[0]["spec"]["podMetricsEndpoints"][0].update(port="web"),
    ),
    (
        ray_policies.ports_agree,
        "overlays/prod",
        lambda r: of_kind(r, "GRPCRoute")[0]["spec"]["rules"][0]["backendRefs"][0].update(port=8000),
    ),
    (ray_policies.head_does_no_work, "base", lambda r: groups(r)["head"]["rayStartParams"].pop("num-cpus")),
    (ray_policies.head_does_no_work, "base", lambda r: ray_service(r)["spec"].pop("excludeHeadPodFromServeSvc")),
    (ray_policies.head_does_no_work, "base", lambda r: edit_spec(r, "cpus: 0.1}", "cpus: 0}")),
    (ray_policies.drains_end_in_time, "base", lambda r: worker(r).update(terminationGracePeriodSeconds=60)),
    (ray_policies.drains_end_in_time, "base", lambda r: edit_spec(r, "drain_timeout_s: 30", "drain_timeout_s: 85")),
    (ray_policies.drains_end_in_time, "base", lambda r: container_of(r)["env"].pop(0)),
    (ray_policies.workers_hold_the_spec, "base", lambda r: groups(r)["workers"].update(replicas=3)),
    (ray_policies.workers_hold_the_spec, "base", lambda r: edit_spec(r, "max_per_node: 1", "max_per_node: 0")),
    (ray_policies.workers_hold_the_spec, "base", lambda r: edit_spec(r, "cpus: 0.3", "cpus: 4")),
    (
        ray_policies.workers_hold_the_spec,
        "overlays/gpu",
        lambda r: groups(r)["workers"]["rayStartParams"].pop("num-gpus"),
    ),
    (ray_policies.workers_hold_the_spec, "base", lambda r: limits_of(r).update(memory="4Gi")),
    (ray_policies.workers_hold_the_spec, "base", lambda r: limits_of(r).update(cpu="1")),
    (ray_policies.workers_hold_the_spec, "overlays/gpu", lambda r: limits_of(r).pop("nvidia.com/gpu")),
    (
        ray_policies.serve_config_deploys_the_spec,
        "base",
        lambda r: ray_service(r)["spec"].update(
            serveConfigV2=ray_service(r)["spec"]["serveConfigV2"].replace("app:application", "app:missing")
        ),
    ),
    (ray_policies.serve_config_deploys_the_spec, "base", lambda r: edit_spec(r, "name: ensemble", "name: other")),
    (ray_policies.serve_config_deploys_the_spec, "base", lambda r: edit_spec(r, "version: 1", "version: 0")),
    (ray_policies.serve_config_deploys_the_spec, "base", lambda r: container_of(r)["volumeMounts"].pop(0)),
    (ray_policies.models_are_verified, "overlays/gpu", lambda r: worker(r).pop("initContainers")),
    (
        ray_policies.models_are_verified,
        "overlays/gpu",
        lambda r: container_of(r)["volumeMounts"][-1].update(readOnly=False),
    ),
    (ray_policies.head_survives, "overlays/prod", lambda r: ray_cluster(r).pop("gcsFaultToleranceOptions")),
    (ray_policies.head_survives, "overlays/prod", lambda r: ray_cluster(r)["authOptions"].update(mode="disabled")),
)


@pytest.mark.parametrize("policy", EVERYWHERE, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_policy_holds_of_an_overlay(overlay: str, policy: Policy) -> None:
    complaints = list(policy(render(overlay)))

    assert complaints == []


@pytest.mark.parametrize("policy", IN_PRODUCTION, ids=lambda policy: policy.__name__)
def test_a_policy_of_production_holds_there(policy: Policy) -> None:
    complaints = list(policy(render("overlays/prod")))

    assert complaints == []


@pytest.mark.parametrize(("policy", "overlay", "fault"), FAULTS)
def test_a_policy_sees_a_fault(policy: Policy, overlay: str, fault: Fault) -> None:
    resources = render(overlay)
    fault(resources)

    complaints = list(policy(resources))

    assert complaints


def test_every_policy_has_a_fault_that_it_sees() -> None:
    assert {policy for policy, _, _ in FAULTS} == {*EVERYWHERE, *IN_PRODUCTION}
