"""Without kubectl the base still keeps its policies: its files are put together here, as kustomize would."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.manifests.rendered import (
    CUSTOM_GROUPS,
    K8S,
    ROOT,
    Resource,
    Resources,
    containers,
    groups,
    load_file,
    needs_kubectl,
    pods,
    ray_service,
    render,
)
from tests.manifests.schemas import VERSIONS, kuberay_problems, needs_kuberay_schemas, pod_of
from tests.manifests.test_policies import EVERYWHERE, FAULTS, Fault, Policy

OF_BASE = [(policy, fault) for policy, overlay, fault in FAULTS if overlay == "base"]


def kustomization(folder: Path) -> Any:
    return yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))


def collect(folder: Path) -> Iterator[Resource]:
    """Give the resources of a kustomization, and the maps that it makes of files."""
    content = kustomization(folder)
    for name in content["resources"]:
        path = folder / name
        yield from collect(path) if path.is_dir() else load_file(path)
    for made in content.get("configMapGenerator", []):
        pairs = [(one.partition("=")[0], folder / one.rpartition("=")[2]) for one in made["files"]]
        data = {key: path.read_text(encoding="utf-8") for key, path in pairs}
        yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made["name"]}, "data": data}


def put_together() -> Resources:
    """Give the base: everything in its namespace, our image by its tag, the Serve config in its place."""
    content = kustomization(K8S / "base")
    (image,) = content["images"]
    resources = deepcopy([*collect(K8S / "base")])
    for resource in resources:
        if resource["kind"] != "Namespace":
            resource["metadata"]["namespace"] = content["namespace"]
    (config,) = (one for one in resources if one["metadata"]["name"] == "ensemble-serve-config")
    resources.remove(config)
    ray_service(resources)["spec"]["serveConfigV2"] = config["data"]["serve-config.yaml"]
    for group in groups(resources).values():
        for container in containers(group["template"]):
            assert container["image"] == image["name"]
            container["image"] = f"{image['name']}:{image['newTag']}"
    return resources


def by_name(resources: Resources) -> dict[tuple[str, str], Any]:
    """Give resources by kind and name, without the hash that a map's name has and those who name it."""
    text = yaml.safe_dump(resources)
    plain = re.sub(r"\bensemble-spec-\w{10}\b", "ensemble-spec", text)
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load(plain)}


@needs_kubectl
def test_what_is_put_together_is_what_kustomize_renders() -> None:
    assert by_name(put_together()) == by_name(render("base"))


@pytest.mark.parametrize("policy", EVERYWHERE, ids=lambda policy: policy.__name__)
def test_a_policy_holds(policy: Policy) -> None:
    assert list(policy(put_together())) == []


@pytest.mark.parametrize(("policy", "fault"), OF_BASE)
def test_a_policy_sees_a_fault(policy: Policy, fault: Fault) -> None:
    resources = put_together()
    fault(resources)

    assert list(policy(resources))


def test_built_in_kinds_and_pods_are_valid() -> None:
    resources = put_together()
    built_in = [one for one in resources if not one["apiVersion"].startswith(CUSTOM_GROUPS)]

    for resource in (*built_in, *map(pod_of, pods(resources).values())):
        kubernetes_validate.validate(resource, VERSIONS[-1], strict=True)

    assert len(built_in) >= 10


@needs_kuberay_schemas
def test_the_rayservice_is_valid() -> None:
    assert kuberay_problems(ray_service(put_together())) == []


def changes_of(folder: Path) -> Iterator[tuple[str, Resource]]:
    """Give what a kustomization changes, each with the kind that it is for."""
    for one in kustomization(folder).get("patches", []):
        text = one.get("patch") or (folder / one["path"]).read_text(encoding="utf-8")
        for change in yaml.safe_load(text):
            yield one["target"]["kind"], change


def goes_somewhere(resource: Any, change: Resource) -> bool:
    """Say whether a change has a place: what is replaced is there, what is added has something to be added to."""
    *around, last = change["path"].strip("/").replace("~1", "~").split("/")
    for part in (one.replace("~", "/") for one in around):
        try:
            resource = resource[int(part) if isinstance(resource, list) else part]
        except (LookupError, ValueError):
            return False
    if isinstance(resource, list):
        return last == "-" if change["op"] == "add" else last.isdigit() and int(last) < len(resource)
    return change["op"] == "add" or last in resource


@pytest.mark.parametrize("folder", sorted(one.parent for one in K8S.rglob("kustomization.yaml")), ids=str)
def test_what_is_changed_in_the_base_is_there(folder: Path) -> None:
    resources = put_together()

    lost = [
        change
        for kind, change in changes_of(folder)
        if not any(goes_somewhere(one, change) for one in resources if one["kind"] == kind)
    ]

    assert lost == []


@pytest.mark.parametrize(
    ("op", "path"),
    [
        ("add", "/spec/rayClusterConfig/workerGroupSpecs/1/replicas"),
        ("add", "/spec/rayClusterConfig/workerGroup/0/replicas"),
        ("replace", "/spec/rayClusterConfig/headGroupSpec/template/spec/container"),
        ("replace", "/spec/rayClusterConfig/workerGroupSpecs/1"),
    ],
)
def test_a_change_of_what_is_not_there_is_noticed(op: str, path: str) -> None:
    assert not goes_somewhere(ray_service(put_together()), {"op": op, "path": path})


@pytest.mark.parametrize("path", sorted((*K8S.rglob("*.yaml"), *(ROOT / "deploy").rglob("*.yaml"))), ids=str)
def test_a_file_is_yaml_and_names_files_that_are_there(path: Path) -> None:
    documents = load_file(path)

    assert documents
    for folder in (path.parent,) if path.name == "kustomization.yaml" else ():
        (content,) = documents
        named = [*content.get("resources", []), *content.get("components", [])]
        named += [one["path"] for one in content.get("patches", []) if "path" in one]
        named += [file.rpartition("=")[2] for one in content.get("configMapGenerator", []) for file in one["files"]]
        assert [name for name in named if not (folder / name).exists()] == []
