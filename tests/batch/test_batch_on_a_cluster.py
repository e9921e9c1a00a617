"""A batch on a cluster has engines of its own there; one that cannot be served says why, and leaves nothing behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import ray
from ray import serve
from ray.experimental import internal_kv

from tests.batch.commands import TIMEOUT_S, begin, finish
from tests.cli.specs import write_spec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("cluster")]
POLL_S = 0.2
METADATA_KEY, METADATA_NAMESPACE = b"CLUSTER_METADATA", b"cluster"
"""Where Ray keeps what a cluster was started with."""


def write_inputs(folder: Path, *members: Mapping[str, object], num_items: int = 1) -> None:
    ensemble = {"name": "default", "members": [member["name"] for member in members]}
    write_spec(folder, json.dumps({"version": 1, "members": members, "ensembles": [ensemble]}))
    rows = ({"id": f"q{n}", "prompt": f"Question {n}?", "choices": ["yes", "no"]} for n in range(num_items))
    (folder / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def run(folder: Path, out: Path, *options: str, exit_code: int = 0) -> str:
    """Run the batch on this session's cluster; gives what it told."""
    address = ray.get_runtime_context().gcs_address
    return finish(begin(folder, out, "--address", address, *options), exit_code=exit_code)


def run_refused(folder: Path) -> str:
    """Run a batch that is refused; gives the last line that it told."""
    told = run(folder, folder / "out.jsonl", exit_code=2)
    assert not (folder / "out.jsonl").exists()
    return told.strip().splitlines()[-1]


def read_rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_votes_that_may_stop_early_give_the_answers_of_whole_ones(tmp_path: Path) -> None:
    members = (
        {"name": name, "family": name, "engine": {"type": "echo", "seed": seed}, "resources": {"cpus": 0}}
        for seed, name in enumerate("abc")
    )
    write_inputs(tmp_path, *members, num_items=60)
    whole, early = tmp_path / "whole.jsonl", tmp_path / "early.jsonl"

    run(tmp_path, whole)
    run(tmp_path, early, "--stop-early")

    kept = ("id", "answer", "degraded")
    assert read_rows(early) == [{name: row[name] for name in kept} for row in read_rows(whole)]
    assert [row["id"] for row in read_rows(whole)] == [f"q{n}" for n in range(60)]
    assert {row["answer"] for row in read_rows(whole)} == {"yes", "no"}


@pytest.fixture
def cluster_of_another_ray() -> Iterator[None]:
    """Let the cluster say that it was started with another Ray."""
    told = get_metadata()
    put_metadata({**told, "ray_version": "2.9.1"})
    yield
    put_metadata(told)


def get_metadata() -> dict[str, object]:
    return dict(json.loads(internal_kv._internal_kv_get(METADATA_KEY, namespace=METADATA_NAMESPACE)))


def put_metadata(metadata: dict[str, object]) -> None:
    content = json.dumps(metadata).encode()
    internal_kv._internal_kv_put(METADATA_KEY, content, overwrite=True, namespace=METADATA_NAMESPACE)


@pytest.mark.usefixtures("cluster_of_another_ray")
def test_a_cluster_of_another_ray_is_refused_with_both_versions(tmp_path: Path) -> None:
    write_inputs(tmp_path, {"name": "a", "family": "f", "engine": {"type": "echo"}})

    line = run_refused(tmp_path)

    assert line.startswith("ensemble: address: no Ray cluster can be used at ")
    assert "was started with: Ray: 2.9.1 Python" in line
    assert line.endswith(f"start one, of Ray {ray.__version__}")


def test_resources_that_no_node_can_hold_are_refused(tmp_path: Path) -> None:
    write_inputs(tmp_path, {"name": "big", "family": "f", "engine": {"type": "echo"}, "resources": {"cpus": 10_000}})

    line = run_refused(tmp_path)

    assert line.startswith("ensemble: members[0].resources.cpus: it is 10000, but the largest node has")


def test_a_member_that_does_not_come_up_leaves_nothing_on_the_cluster(tmp_path: Path) -> None:
    missing = str(tmp_path / "no-such-checkpoint")
    engine = {"type": "embedded", "device": "cpu", "threads": 1}
    member = {"name": "lost", "family": "f", "checkpoint": missing, "engine": engine, "resources": {"cpus": 0}}
    write_inputs(tmp_path, member)

    line = run_refused(tmp_path)

    assert line.startswith("ensemble: batch-")
    assert missing in line
    until_s = time.monotonic() + TIMEOUT_S
    while any(name.startswith("batch-") for name in serve.status().applications):
        assert time.monotonic() < until_s
        time.sleep(POLL_S)  # Serve's status is all there is to go by
