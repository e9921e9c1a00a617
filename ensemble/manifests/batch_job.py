"""A RayJob for a spec: a batch on a cluster of its own, whose workers hold the spec's replicas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.manifests.digests import read_digests
from ensemble.manifests.fitness import check_members, models_named
from ensemble.manifests.overlay import Surroundings, check_ray_version, dump, parse_image, read_map, worker_patch
from ensemble.manifests.sizing import WorkerSize, size_workers
from ensemble.spec_file import load_calibrations, load_spec

_CLUSTER, _CLUSTER_OF_SERVICE = "/spec/rayClusterSpec/", "/spec/rayClusterConfig/"
_NAMESPACE = "ensemble"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """The manifest of a job, and the size that it asks for."""

    content: bytes
    size: WorkerSize


def build_job(spec_path: Path, *, template: Path, components: Path, around: Surroundings) -> BatchJob:
    """Fill the RayJob of the file ``template`` in for a spec; nothing is written.

    ``components`` is the folder k8s/components: on GPUs, and with a volume of models, a job's workers are changed as
    a service's are.

    Raises:
        ConfigError: the spec cannot run in the job's pods, or the template is for another Ray.
        CheckpointError: a checkpoint that is here cannot be measured.
    """
    spec = _without_feedback(load_spec(spec_path))
    check_members(spec, spec_path.parent)
    load_calibrations(spec)
    check_ray_version(template)
    size = size_workers(spec, volume=around.volume, gpu_memory_gib=around.gpu_memory_gib)
    maps = {"ensemble-batch-spec": read_map(spec, spec_path)}
    image, changes = around.image, worker_patch(size)
    if size.gpus:
        component = _load(components / "gpu/kustomization.yaml")
        image = image or ":".join(component["images"][0][key] for key in ("name", "newTag"))
        changes += [change for patch in component["patches"] for change in yaml.safe_load(patch["patch"])]
    if named := models_named(spec):
        maps["ensemble-models"] = {"models.sha256": read_digests(around.models, named)}
        changes += _load(components / "models/volume.yaml")
    # By JSON, which has no aliases: what is changed in one place stays as it is in the others.
    job, *others = json.loads(json.dumps(list(yaml.safe_load_all(template.read_bytes()))))
    _apply(job, changes)
    _set_image(job, image)
    resources = [*(_config_map(name, files) for name, files in maps.items()), *others, job]
    for resource in resources:
        resource["metadata"]["namespace"] = _NAMESPACE
    return BatchJob(content=b"---\n".join(map(dump, resources)), size=size)


def _without_feedback(spec: Spec) -> Spec:
    """Leave out what a batch leaves out; no folder of it is needed."""
    ensembles = tuple(one.model_copy(update={"feedback": None}) for one in spec.ensembles)
    return spec.model_copy(update={"ensembles": ensembles})


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be read ({error.strerror})", "give --base of this project") from error


def _apply(job: dict[str, Any], changes: Sequence[dict[str, Any]]) -> None:
    """Make the additions of a JSON patch for a RayService to the job, whose cluster has another name in it."""
    for change in changes:
        place: Any = job
        *path, last = change["path"].replace(_CLUSTER_OF_SERVICE, _CLUSTER).strip("/").split("/")
        for key in path:
            place = place[int(key)] if isinstance(place, list) else place[key]
        if isinstance(place, list):
            place.append(change["value"])
        else:
            place[last] = change["value"]


def _set_image(job: dict[str, Any], image: str) -> None:
    """Run one image everywhere; without one, that of the template."""
    cluster, submitter = job["spec"]["rayClusterSpec"], job["spec"]["submitterPodTemplate"]["spec"]
    if image:
        parts = parse_image(image)
        tail = f"@{parts['digest']}" if "digest" in parts else f":{parts['newTag']}"
        image = f"{parts['newName']}{tail}"
    else:
        image = submitter["containers"][0]["image"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (submitter, *(group["template"]["spec"] for group in groups)):
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            container["image"] = image


def _config_map(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    data = {file: content.decode() for file, content in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
