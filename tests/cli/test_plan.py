"""``ensemble plan`` shows what goes where, and refuses what does not fit in one line; ``serve`` refuses it alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from ensemble.cli.entry import app
from tests.cli.specs import GOOD, write_spec
from tests.planning.shapes import LLAMA_8B, dummy_member, save_shape

H100 = ("--nodes", "1", "--gpus-per-node", "1", "--gpu-memory-gib", "80")


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def write_gpu_spec(folder: Path, *members: dict[str, Any]) -> Path:
    names = [member["name"] for member in members]
    document = {"version": 1, "members": list(members), "ensembles": [{"name": "default", "members": names}]}
    path = folder / "gpu.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a spec of three members on one GPU."""
    folder = tmp_path_factory.mktemp("three")
    shape = save_shape(folder / "shape", LLAMA_8B)
    return write_gpu_spec(
        folder, *(dummy_member(name, shape, gpus=0.33, quantization="fp8", kv_cache_gib=6) for name in "abc")
    )


def test_a_plan_shows_every_members_sizes_and_the_gpus_load(three: Path) -> None:
    result = run("plan", three, *H100)

    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    # node, GPU, member, replica, dtype, quantisation, share, weights, cache, reserve, together, host memory, cpus
    assert ["node-0", "0", "a", "1/1", "bfloat16", "fp8", "0.33", "8.46", "6.00", "3.00", "17.46", "4.00", "1"] in rows
    assert ["0", "3", "0.99", "52.37", "80.00"] in rows


def test_a_plan_is_json_too(three: Path) -> None:
    document = json.loads(run("plan", three, *H100, "--json").stdout)

    (node,) = document["nodes"]
    assert node["gpus"][0]["members"] == ["a", "b", "c"]
    assert node["gpus"][0]["share_used"] == 0.99
    first = document["replicas"][0]
    assert first["gpus"] == [{"node": "node-0", "index": 0}]
    assert first["gpu_bytes"] == sum(
        first["measured"][part] for part in ("weight_bytes", "cache_bytes", "reserve_bytes")
    )


def test_this_machine_is_planned_for_without_options(tmp_path: Path) -> None:
    result = run(
        "plan",
        write_spec(tmp_path, GOOD.replace("engine: {type: echo}", "engine: {type: echo}, resources: {cpus: 0.1}")),
    )

    assert result.exit_code == 0, result.output
    assert "router" in result.stdout


def check_refused(result: Result, *facts: str) -> None:
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert [fact for fact in facts if fact not in result.stderr] == []


def test_what_does_not_fit_is_refused_with_figures(three: Path) -> None:
    small = ("--nodes", "1", "--gpus-per-node", "1", "--gpu-memory-gib", "24")

    check_refused(
        run("plan", three, *small), "members[0].resources.gpus", "17.5 GiB", "24.0 GiB", "resources.gpus to 0.76"
    )


def test_serving_refuses_it_before_anything_starts(three: Path) -> None:
    result = run("serve", three)

    check_refused(result, "members[0].resources.gpus", "0.33")
    assert "cluster" not in result.stdout


def test_a_checkpoint_that_cannot_be_measured_is_named(tmp_path: Path) -> None:
    spec = write_gpu_spec(tmp_path, dummy_member("ghost", save_shape(tmp_path / "x", {"model_type": "no"}), gpus=0.5))

    check_refused(run("plan", spec, *H100), "members[0].checkpoint", "ghost", "cannot be measured")


def test_a_cluster_and_made_up_machines_exclude_each_other(three: Path) -> None:
    check_refused(run("plan", three, "--address", "auto", "--nodes", "1"), "--nodes")


def test_a_cluster_that_is_not_there_is_refused(three: Path) -> None:
    check_refused(run("plan", three, "--address", "127.0.0.1:1"), "address: nobody answers")
