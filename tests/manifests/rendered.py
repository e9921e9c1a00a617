"""Kustomizations as the resources that a cluster would get."""

from __future__ import annotations

import functools
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("base", "overlays/dev-cpu", "overlays/gpu", "overlays/prod")
CUSTOM_GROUPS = ("ray.io/", "monitoring.coreos.com/", "gateway.networking.k8s.io/")

# What KubeRay labels its pods with, unless their template has labels of these names; its services select by them.
OF_KUBERAY = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/created-by": "kuberay-operator"}

Resource = dict[str, Any]
Resources = list[Resource]

# Neither PyPI nor npm has one of them.
RENDERER = ("kubectl", "kustomize") if shutil.which("kubectl") else ("kustomize", "build")
needs_kubectl = pytest.mark.skipif(
    not shutil.which(RENDERER[0]), reason="kubectl or kustomize renders the manifests, and neither is installed"
)


def load_file(path: Path) -> Resources:
    """Read a file of manifests that nothing renders."""
    return [resource for resource in yaml.safe_load_all(path.read_text(encoding="utf-8")) if resource]


def kustomize(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run kustomize on a folder."""
    command = [*RENDERER, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603


def render(overlay: str) -> Resources:
    """Render one of the project's kustomizations; a copy that a test may break."""
    return deepcopy(_render(K8S / overlay))


def render_folder(folder: Path) -> Resources:
    """Render a kustomization anywhere."""
    return deepcopy(_render(folder))


@functools.cache
def _render(folder: Path) -> Resources:
    done = kustomize(folder)
    assert done.returncode == 0, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


def of_kind(resources: Resources, kind: str) -> Resources:
    """Give the resources of a kind."""
    return [resource for resource in resources if resource["kind"] == kind]


def ray_service(resources: Resources) -> Resource:
    """Give the one RayService."""
    (found,) = of_kind(resources, "RayService")
    return found


def ray_cluster(resources: Resources) -> Resource:
    """Give the one Ray cluster's description, whether a service or a job has it."""
    (found,) = [*of_kind(resources, "RayService"), *of_kind(resources, "RayJob")]
    cluster: Resource = found["spec"]["rayClusterConfig" if found["kind"] == "RayService" else "rayClusterSpec"]
    return cluster


def groups(resources: Resources) -> dict[str, Resource]:
    """Give Ray's head and worker groups by name."""
    cluster = ray_cluster(resources)
    return {"head": cluster["headGroupSpec"], **{one["groupName"]: one for one in cluster["workerGroupSpecs"]}}


def pods(resources: Resources) -> dict[str, Resource]:
    """Give every pod's template by a name of its owner, with the labels that KubeRay adds."""
    found = {}
    for name, group in groups(resources).items():
        template = deepcopy(group["template"])
        node_type = "head" if name == "head" else "worker"
        template["metadata"]["labels"] = {**OF_KUBERAY, **template["metadata"]["labels"], "ray.io/node-type": node_type}
        found[f"ray {name}"] = template
    found |= {pod["metadata"]["name"]: pod for pod in of_kind(resources, "Pod")}
    for job in of_kind(resources, "RayJob"):
        found["submitter"] = job["spec"]["submitterPodTemplate"]
    for kind in ("StatefulSet", "Deployment", "DaemonSet", "Job"):
        for resource in of_kind(resources, kind):
            found[resource["metadata"]["name"]] = resource["spec"]["template"]
    return found


def containers(pod: Resource) -> Resources:
    """Give a pod's containers, those of its start included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def serve_config(resources: Resources) -> Resource:
    """Read the RayService's Serve config."""
    config: Resource = yaml.safe_load(ray_service(resources)["spec"]["serveConfigV2"])
    return config


def spec_text(resources: Resources) -> str:
    """Give the ensemble's spec as the pods would read it."""
    volumes = groups(resources)["head"]["template"]["spec"]["volumes"]
    (name,) = [volume["configMap"]["name"] for volume in volumes if volume["name"] == "spec"]
    (found,) = [one for one in of_kind(resources, "ConfigMap") if one["metadata"]["name"] == name]
    text: str = found["data"]["spec.yaml"]
    return text
