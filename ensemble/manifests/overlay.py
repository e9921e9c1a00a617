"""A kustomize overlay for a spec: the spec itself, its Serve config, and workers that hold its replicas."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.manifests.digests import read_digests
from ensemble.manifests.fitness import check_beside, check_fitness, models_named, state_needed
from ensemble.manifests.sizing import WorkerSize, size_workers
from ensemble.spec_file import find_weight_files, load_calibrations, load_spec

LARGEST_MAP_BYTES = 1_000_000
"""A ConfigMap holds 1 MiB at most, keys included."""
_IMAGE = re.compile(
    r"(?P<name>[\w./:-]*?[\w./-]+)(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_WORKERS = "/spec/rayClusterConfig/workerGroupSpecs/0"
_TARGET = {"kind": "RayService", "name": "ensemble"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a spec meets in the cluster that it is rendered for.

    ``image`` is what runs, by tag or digest; empty leaves the manifests' own. ``models`` has the lines of sha256sum
    about the files on the volume of models; in a copy of it, checkpoints are measured there. ``gpu_memory_gib`` is the
    memory of each GPU of the workers' nodes; 0 leaves the members' shares unchecked. ``in_production`` there is a
    store for the head's state, a token of Ray's, and a gateway.
    """

    image: str = ""
    models: Path | None = None
    gpu_memory_gib: float = 0.0
    in_production: bool = False

    @property
    def volume(self) -> Path | None:
        """Say where a copy of the volume of models may be."""
        return self.models.parent if self.models else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """The files of an overlay, by name, and the size that they ask for."""

    content_by_name: dict[str, bytes]
    size: WorkerSize


def build_overlay(spec_path: Path, out: Path, *, base: Path, around: Surroundings) -> Overlay:
    """Make the overlay of a spec for the folder ``out``, from the folder k8s/base; nothing is written.

    Raises:
        ConfigError: the spec cannot run in the base's pods, or the base is for another Ray.
        CheckpointError: a checkpoint that is here cannot be measured.
    """
    spec = load_spec(spec_path)
    check_fitness(spec, spec_path.parent)
    load_calibrations(spec)
    check_ray_version(base / "ray-service.yaml")
    files = read_map(spec, spec_path)
    size = size_workers(spec, volume=around.volume, gpu_memory_gib=around.gpu_memory_gib)
    parts = _parts_of(spec, size, around)
    kustomization = _kustomization(os.path.relpath(base.resolve(), out.resolve()), parts, [*files], size=size)
    if around.image or around.in_production:
        image = parse_image(around.image, must_be_digest=around.in_production)
        kustomization["images"] = [{"name": "ensemble-serving", **image}]
    if named := models_named(spec):
        files["models.sha256"] = read_digests(around.models, named)
        kustomization["configMapGenerator"].append({"name": "ensemble-models", "files": ["models.sha256"]})
    files["workers.yaml"] = dump(worker_patch(size))
    files["serve-config.yaml"] = dump(_serve_config(spec))
    files["kustomization.yaml"] = dump(kustomization)
    return Overlay(content_by_name=files, size=size)


def read_map(spec: Spec, spec_path: Path) -> dict[str, bytes]:
    """Read what the pods' ConfigMap carries, by file name: the spec, and its calibrations.

    Raises:
        ConfigError: a ConfigMap does not hold so much, or weights lie elsewhere than the spec.
    """
    files = {"spec.yaml": _read(spec_path)}
    weight_files = find_weight_files(spec_path)
    for file in weight_files:
        check_beside(file, spec_path.parent, where="engine.weights_from.calibration")
    calibrations = (Path(ensemble.calibration) for ensemble in spec.ensembles if ensemble.calibration)
    files |= {file.name: _read(file) for file in (*calibrations, *weight_files)}
    if (size_bytes := sum(map(len, files.values()))) > LARGEST_MAP_BYTES:
        problem = f"spec and calibrations have {size_bytes:,} bytes, and a ConfigMap holds {LARGEST_MAP_BYTES:,}"
        raise ConfigError(str(spec_path), problem, "calibrate fewer ensembles in one spec")
    return files


def with_heading(overlay: Overlay, heading: str) -> Overlay:
    """Give the overlay with a comment on top of its kustomization."""
    files = overlay.content_by_name
    commented = f"# {heading}\n".encode() + files["kustomization.yaml"]
    return replace(overlay, content_by_name={**files, "kustomization.yaml": commented})


def _parts_of(spec: Spec, size: WorkerSize, around: Surroundings) -> list[str]:
    wanted = {
        "gpu": size.gpus > 0,
        "models": bool(models_named(spec)),
        "state": state_needed(spec),
        "tls": spec.router.tls is not None,
        "production": around.in_production,
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


def _kustomization(base: str, parts: list[str], in_map: list[str], *, size: WorkerSize) -> dict[str, Any]:
    beside = os.path.normpath(f"{base}/../components")
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "ensemble",
        "resources": [base],
        "components": [f"{beside}/{name}" for name in parts],
        "configMapGenerator": [
            {"name": "ensemble-spec", "behavior": "replace", "files": in_map},
            {
                "name": "ensemble-serve-config",
                "behavior": "replace",
                "files": ["serve-config.yaml"],
                "options": {"annotations": {"config.kubernetes.io/local-config": "true"}},
            },
        ],
        "replacements": [
            {
                "source": {
                    "kind": "ConfigMap",
                    "name": "ensemble-serve-config",
                    "fieldPath": "data.[serve-config.yaml]",
                },
                "targets": [{"select": dict(_TARGET), "fieldPaths": ["spec.serveConfigV2"]}],
            }
        ],
        "patches": [{"target": dict(_TARGET), "path": "workers.yaml"}, _budget_patch(size)],
    }


def worker_patch(size: WorkerSize) -> list[dict[str, Any]]:
    """Give the JSON patch that makes a RayService's workers of this size."""
    amounts = {"cpu": str(size.cpus), "memory": f"{size.memory_gib}Gi"}
    if size.gpus:
        amounts["nvidia.com/gpu"] = str(size.gpus)
    values: dict[str, Any] = {
        "replicas": size.workers,
        "minReplicas": size.workers,
        "maxReplicas": size.workers,
        "rayStartParams/num-cpus": str(size.cpus),
        "template/spec/containers/0/resources": {"requests": amounts, "limits": dict(amounts)},
    }
    if size.gpus:
        values["rayStartParams/num-gpus"] = str(size.gpus)
    return [{"op": "add", "path": f"{_WORKERS}/{path}", "value": value} for path, value in values.items()]


def _budget_patch(size: WorkerSize) -> dict[str, Any]:
    change = {"op": "replace", "path": "/spec/minAvailable", "value": size.workers - 1}
    target = {"kind": "PodDisruptionBudget", "name": "ensemble-workers"}
    return {"target": target, "patch": dump([change]).decode()}


def _serve_config(spec: Spec) -> dict[str, Any]:
    application = {
        "name": spec.name,
        "route_prefix": f"/{spec.name}",
        "import_path": "ensemble.app:application",
        "args": {"spec": "/etc/ensemble/spec.yaml"},
    }
    http = {"host": "0.0.0.0", "port": 8000}  # noqa: S104 - within the pods' network, where KubeRay asks
    return {"proxy_location": "EveryNode", "http_options": http, "applications": [application]}


def check_ray_version(manifest: Path) -> None:
    """Check that a manifest is for the Ray that this program runs on.

    Raises:
        ConfigError: it is not.
    """
    found = re.search(r"^\s*rayVersion:\s*[\"']?([\w.]+)", _read(manifest).decode(), re.MULTILINE)
    named = found.group(1) if found else "none"
    if named != (installed := version("ray")):
        raise ConfigError(
            f"{manifest}: rayVersion",
            f"it is {named}, and this program runs on Ray {installed}",
            "take the manifests of this program's version",
        )


def parse_image(image: str, *, must_be_digest: bool = False) -> dict[str, str]:
    """Part an image's name as kustomize wants it.

    Raises:
        ConfigError: it is not pinned.
    """
    found = _IMAGE.fullmatch(image)
    if must_be_digest and not (found and found["digest"]):
        problem = f"{image!r} has no digest, and production runs what was chosen once"
        raise ConfigError("--image", problem, "give NAME@sha256:DIGEST, as the registry said when it was pushed")
    if not found or not (found["tag"] or found["digest"]):
        raise ConfigError("--image", f"{image!r} names no image", "give NAME:TAG, or NAME@sha256:DIGEST")
    if found["digest"]:
        return {"newName": found["name"], "digest": found["digest"]}
    if found["tag"] == "latest":
        raise ConfigError("--image", "latest is another image tomorrow", "give a version's tag, or a digest")
    return {"newName": found["name"], "newTag": found["tag"]}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be read ({error.strerror})", "give a file that is there") from error


class _Indented(yaml.SafeDumper):
    """Indents lists below their key, and gives texts their lines, as everything that people write here does."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, FBT002
        super().increase_indent(flow, indentless=False)

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Indented.add_representer(str, _Indented.represent_str)


def dump(data: Any) -> bytes:
    """Write YAML as people do."""
    return yaml.dump(data, Dumper=_Indented, sort_keys=False, width=120).encode()
