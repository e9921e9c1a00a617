"""What is rendered is what Kubernetes and KubeRay take; a wrong field is refused."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest

from tests.manifests.rendered import (
    CUSTOM_GROUPS,
    OVERLAYS,
    Resources,
    groups,
    kustomize,
    needs_kubectl,
    of_kind,
    pods,
    ray_service,
    render,
)
from tests.manifests.schemas import OLDEST_MINOR, VERSIONS, kuberay_problems, needs_kuberay_schemas, pod_of

pytestmark = needs_kubectl


def built_in(resources: Resources) -> Resources:
    return [one for one in resources if not one["apiVersion"].startswith(CUSTOM_GROUPS)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_renders_a_rayservice_and_what_surrounds_it(overlay: str) -> None:
    kinds = {one["kind"] for one in render(overlay)}

    assert kinds >= {
        *(
            "RayService",
            "ConfigMap",
            "Namespace",
            "NetworkPolicy",
            "PodDisruptionBudget",
            "PodMonitor",
            "ServiceAccount",
        )
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_rendered_outside_the_namespace(overlay: str) -> None:
    resources = [one for one in render(overlay) if one["kind"] != "Namespace"]

    assert {one["metadata"].get("namespace") for one in resources} == {"ensemble"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_built_in_kinds_are_valid(overlay: str, version: str) -> None:
    resources = built_in(render(overlay))

    for resource in resources:
        kubernetes_validate.validate(resource, version, strict=True)

    assert len(resources) >= 10


def test_all_versions_from_the_oldest_to_the_newest_are_checked() -> None:
    assert [int(one.split(".")[1]) for one in VERSIONS] == list(range(OLDEST_MINOR, OLDEST_MINOR + len(VERSIONS)))
    assert len(VERSIONS) >= 8


@pytest.mark.parametrize("version", VERSIONS)
def test_a_field_that_a_built_in_kind_has_not_is_refused(version: str) -> None:
    (budget, *_) = of_kind(render("base"), "PodDisruptionBudget")
    budget["spec"]["maxAvailable"] = 1

    with pytest.raises(kubernetes_validate.ValidationError, match="maxAvailable"):
        kubernetes_validate.validate(budget, version, strict=True)


@needs_kuberay_schemas
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_rayservice_is_valid(overlay: str) -> None:
    problems = kuberay_problems(ray_service(render(overlay)))

    assert problems == []


@needs_kuberay_schemas
def test_a_field_that_a_rayservice_has_not_is_refused() -> None:
    service = ray_service(render("base"))
    service["spec"]["serveConfigV3"] = ""

    problems = kuberay_problems(service)

    assert any("serveConfigV3" in problem for problem in problems)


@needs_kuberay_schemas
def test_a_field_that_a_pod_of_a_rayservice_has_not_is_refused() -> None:
    service = ray_service(render("base"))
    cluster = service["spec"]["rayClusterConfig"]
    cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["readinesProbe"] = {}

    problems = kuberay_problems(service)

    assert any("readinesProbe" in problem for problem in problems)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_valid_as_pods(overlay: str, version: str) -> None:
    templates = pods(render(overlay))

    for template in templates.values():
        kubernetes_validate.validate(pod_of(template), version, strict=True)

    assert templates.keys() >= {"ray head", "ray workers"}


def test_a_field_that_a_pod_has_not_is_refused() -> None:
    template = groups(render("base"))["workers"]["template"]
    template["spec"]["containers"][0]["readinessProbe"]["grpc"]["path"] = "/"

    with pytest.raises(kubernetes_validate.ValidationError, match="path"):
        kubernetes_validate.validate(pod_of(template), VERSIONS[-1], strict=True)


def test_a_kustomization_with_a_missing_file_does_not_render(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n", encoding="utf-8")

    done = kustomize(tmp_path)

    assert done.returncode != 0
    assert "missing.yaml" in done.stderr
