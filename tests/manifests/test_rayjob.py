"""The RayJob of a batch: the schemas take it, pods' policies hold of it, and it runs our batch where its files are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import kubernetes_validate
import pytest

from tests.manifests import pod_policies, ray_policies
from tests.manifests.rendered import (
    ROOT,
    Resource,
    Resources,
    groups,
    load_file,
    of_kind,
    pods,
    ray_cluster,
)
from tests.manifests.schemas import VERSIONS, kuberay_problems, needs_kuberay_schemas, pod_of

Policy = Callable[[Resources], Iterator[str]]
Fault = Callable[[Resources], object]


def manifest() -> Resources:
    """Give the job, with the claim of its files and the pod that fills it."""
    return [one for name in ("rayjob", "files") for one in load_file(ROOT / f"deploy/jobs/{name}.yaml")]


def job(resources: Resources) -> Any:
    (found,) = of_kind(resources, "RayJob")
    return found["spec"]


def container(resources: Resources, group: str) -> Any:
    return groups(resources)[group]["template"]["spec"]["containers"][0]


def runs_our_batch(resources: Resources) -> Iterator[str]:
    """The driver runs on the head, which finds the spec there, and input and output on the claim."""
    program, verb, *operands = job(resources)["entrypoint"].split()
    if (program, verb) != ("ensemble", "batch"):
        yield f"the job runs {program} {verb}"
    volume_by_path = {one["mountPath"]: one["name"] for one in container(resources, "head")["volumeMounts"]}
    found = [volume_by_path.get(str(PurePosixPath(operand).parent)) for operand in operands[:3]]
    if found != ["spec", "batch", "batch"]:
        yield f"spec, input and output lie on {found}"
    if operands[3:5] != ["--address", "auto"]:
        yield "the batch would start a cluster of its own"
    if "--accept-rejects" not in operands:
        yield "rejected lines would be a failure, and be tried again on new clusters"
    for group, template in groups(resources).items():
        if not any(one["name"] == "spec" for one in template["template"]["spec"]["containers"][0]["volumeMounts"]):
            yield f"{group} has no spec"


def claims_are_made(resources: Resources) -> Iterator[str]:
    """The claims that pods name are in the file."""
    made = {one["metadata"]["name"] for one in of_kind(resources, "PersistentVolumeClaim")}
    for name, pod in pods(resources).items():
        for volume in pod["spec"]["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in made:
                yield f"{name}: there is no claim {claim}"


def head_gives_no_cores(resources: Resources) -> Iterator[str]:
    """The job's process is alone on the head."""
    if groups(resources)["head"]["rayStartParams"].get("num-cpus") != "0":
        yield "members may land on the head"


def comes_to_an_end(resources: Resources) -> Iterator[str]:
    """Tries and time have a bound, the cluster goes with the job, and drains end within the grace period."""
    spec = job(resources)
    if not {"backoffLimit", "activeDeadlineSeconds", "preRunningDeadlineSeconds"} <= spec.keys():
        yield "tries or time have no bound"
    if spec.get("shutdownAfterJobFinishes") is not True or "ttlSecondsAfterFinished" not in spec:
        yield "the cluster outlives its job"
    for name, group in groups(resources).items():
        pod = group["template"]["spec"]
        environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        drain_s = float(environment.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or 3_600)
        if drain_s >= pod.get("terminationGracePeriodSeconds", 30):
            yield f"{name} drains {drain_s:g} s, longer than its grace period"


FAULTS: tuple[tuple[Policy, Fault], ...] = (
    (pod_policies.no_privileges, lambda r: container(r, "workers")["securityContext"].update(privileged=True)),
    (pod_policies.no_privileges, lambda r: job(r)["submitterPodTemplate"]["spec"].update(hostNetwork=True)),
    (pod_policies.images_are_pinned, lambda r: container(r, "head").update(image="ensemble-serving:latest")),
    (pod_policies.resources_are_bounded, lambda r: container(r, "workers").pop("resources")),
    (
        ray_policies.kuberay_finds_its_pods,
        lambda r: groups(r)["head"]["template"]["metadata"]["labels"].update({"app.kubernetes.io/name": "ensemble"}),
    ),
    (ray_policies.ray_version_is_the_pinned_one, lambda r: ray_cluster(r).update(rayVersion="2.9.1")),
    (runs_our_batch, lambda r: job(r).update(entrypoint="python batch.py a b c --address auto")),
    (runs_our_batch, lambda r: container(r, "head")["volumeMounts"].pop(0)),
    (runs_our_batch, lambda r: container(r, "workers")["volumeMounts"].pop(0)),
    (runs_our_batch, lambda r: job(r).update(entrypoint=job(r)["entrypoint"].replace("--address auto", ""))),
    (runs_our_batch, lambda r: job(r).update(entrypoint=job(r)["entrypoint"].replace("--accept-rejects", ""))),
    (pod_policies.no_privileges, lambda r: of_kind(r, "Pod")[0]["spec"].pop("securityContext")),
    (claims_are_made, lambda r: r.remove(of_kind(r, "PersistentVolumeClaim")[0])),
    (head_gives_no_cores, lambda r: groups(r)["head"]["rayStartParams"].pop("num-cpus")),
    (comes_to_an_end, lambda r: job(r).pop("activeDeadlineSeconds")),
    (comes_to_an_end, lambda r: job(r).update(shutdownAfterJobFinishes=False)),
    (comes_to_an_end, lambda r: groups(r)["workers"]["template"]["spec"].update(terminationGracePeriodSeconds=20)),
)
POLICIES = tuple(dict.fromkeys(policy for policy, _ in FAULTS))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_a_policy_holds_of_the_job(policy: Policy) -> None:
    assert list(policy(manifest())) == []


@pytest.mark.parametrize(("policy", "fault"), FAULTS)
def test_a_policy_sees_a_fault(policy: Policy, fault: Fault) -> None:
    resources = manifest()
    fault(resources)

    complaints = list(policy(resources))

    assert complaints


def test_no_disruption_budget_of_the_service_holds_its_pods() -> None:
    budgets = load_file(ROOT / "k8s/base/disruption-budgets.yaml")
    selectors = [one["spec"]["selector"]["matchLabels"].items() for one in budgets]

    held = [
        name
        for name, pod in pods(manifest()).items()
        if any(selector <= pod["metadata"]["labels"].items() for selector in selectors)
    ]

    assert len(selectors) == 2
    assert held == []


def test_the_service_accounts_and_the_networks_policies_are_those_of_the_base() -> None:
    accounts = {one["metadata"]["name"] for one in load_file(ROOT / "k8s/base/service-accounts.yaml")}
    allowed = {"app.kubernetes.io/part-of": "ensemble"}.items()

    for name, pod in pods(manifest()).items():
        if name == "ensemble-batch-files":
            # It asks nobody, and nobody asks it.
            continue
        assert pod["spec"]["serviceAccountName"] in accounts
        # Who has this label may speak within, and with nobody else.
        assert allowed <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("version", VERSIONS)
def test_its_claim_and_pods_are_valid(version: str) -> None:
    resources = manifest()

    for claim in of_kind(resources, "PersistentVolumeClaim"):
        kubernetes_validate.validate(claim, version, strict=True)
    for pod in pods(resources).values():
        kubernetes_validate.validate(pod_of(pod), version, strict=True)


def test_a_field_that_a_claim_has_not_is_refused() -> None:
    (claim,) = of_kind(manifest(), "PersistentVolumeClaim")
    claim["spec"]["size"] = "20Gi"

    with pytest.raises(kubernetes_validate.ValidationError, match="size"):
        kubernetes_validate.validate(claim, VERSIONS[-1], strict=True)


@needs_kuberay_schemas
def test_the_rayjob_is_valid() -> None:
    (resource,) = of_kind(manifest(), "RayJob")

    assert kuberay_problems(resource) == []


@needs_kuberay_schemas
@pytest.mark.parametrize(
    "fault",
    [
        lambda resource: resource["spec"].update(entryPoint="ensemble"),
        lambda resource: resource["spec"].update(backoffLimit="often"),
        lambda resource: resource["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].update(volume=[]),
    ],
)
def test_a_field_that_a_rayjob_has_not_is_refused(fault: Callable[[Resource], object]) -> None:
    (resource,) = of_kind(manifest(), "RayJob")
    fault(resource)

    assert kuberay_problems(resource)
