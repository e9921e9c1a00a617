"""The schemas that manifests are held against: Kubernetes' by a package, KubeRay's where they lie on this machine."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from kubernetes_validate.utils import all_versions

from tests.manifests.rendered import ROOT, Resource

OLDEST_MINOR = 30
VERSIONS = list(dict.fromkeys(one for one in all_versions() if int(one.split(".")[1]) >= OLDEST_MINOR))
BESIDE = next(ROOT.parent.glob("*/k8s-schemas"), ROOT.parent / "k8s-schemas")
KUBERAY_SCHEMAS = Path(os.environ.get("ENSEMBLE_KUBERAY_SCHEMAS") or BESIDE)  # noqa: TID251 - this machine's

needs_kuberay_schemas = pytest.mark.skipif(
    not KUBERAY_SCHEMAS.is_dir(),
    reason="KubeRay's schemas (KIND-v1.schema.json) are neither in ENSEMBLE_KUBERAY_SCHEMAS nor beside the project",
)

# The library reads a version's definitions, some megabytes, for every resource.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def kuberay_problems(resource: Resource) -> list[str]:
    """Say what KubeRay's schema has against one of its resources."""
    schema: Any = json.loads((KUBERAY_SCHEMAS / f"{resource['kind']}-v1.schema.json").read_text(encoding="utf-8"))
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(resource)]


def pod_of(template: Resource) -> Resource:
    """Make the pod of a template: the schemas of custom resources say less about pods than Kubernetes' own."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": template["spec"]}
