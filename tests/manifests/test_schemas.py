"""What is rendered is what Kubernetes and KubeRay take; a wrong field is refused."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from kubernetes_validate.utils import all_versions

from tests.manifests.rendered import (
    CUSTOM_GROUPS,
    OVERLAYS,
    Resource,
    Resources,
    groups,
    kustomize,
    needs_kubectl,
    of_kind,
    ray_service,
    render,
)

pytestmark = needs_kubectl

OLDEST_MINOR = 30
VERSIONS = list(dict.fromkeys(one for one in all_versions() if int(one.split(".")[1]) >= OLDEST_MINOR))
KUBERAY_SCHEMAS = os.environ.get("ENSEMBLE_KUBERAY_SCHEMAS", "")  # noqa: TID251 - where the schemas lie on this machine

needs_kuberay_schemas = pytest.mark.skipif(
    not KUBERAY_SCHEMAS,
    reason="ENSEMBLE_KUBERAY_SCHEMAS names the folder of KubeRay's JSON schemas (KIND-v1.schema.json)",
)


@pytest.fixture(scope="module", autouse=True)
def each_schema_is_read_once() -> Iterator[None]:
    """The library reads a version's definitions, some megabytes, for every resource."""
    read = kubernetes_validate.utils.schema_contents
    kubernetes_validate.utils.schema_contents = functools.cache(read)
    yield
    kubernetes_validate.utils.schema_contents = read


def built_in(resources: Resources) -> Resources:
    return [one for one in resources if not one["apiVersion"].startswith(CUSTOM_GROUPS)]


def kuberay_problems(resource: Resource) -> list[str]:
    schema: Any = json.loads(Path(KUBERAY_SCHEMAS, f"{resource['kind']}-v1.schema.json").read_text(encoding="utf-8"))
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(resource)]


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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_of_a_rayservice_are_valid_as_pods(overlay: str) -> None:
    for group in groups(render(overlay)).values():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": group["template"]["spec"]}

        kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


def test_a_kustomization_with_a_missing_file_does_not_render(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n", encoding="utf-8")

    done = kustomize(tmp_path)

    assert done.returncode != 0
    assert "missing.yaml" in done.stderr
