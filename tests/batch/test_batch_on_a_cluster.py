"""A batch that a cluster cannot serve says why in one line, and leaves nothing on the cluster."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from ray import serve

from tests.batch.commands import TIMEOUT_S, begin, finish
from tests.cli.specs import write_spec

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
POLL_S = 0.2


def write_inputs(folder: Path, member: dict[str, object]) -> None:
    ensemble = {"name": "default", "members": [member["name"]]}
    write_spec(folder, json.dumps({"version": 1, "members": [member], "ensembles": [ensemble]}))
    (folder / "in.jsonl").write_text('{"id": "1", "prompt": "Red?", "choices": ["yes", "no"]}\n', "utf-8")


def run_refused(folder: Path) -> str:
    """Run the batch on this session's cluster; gives the last line that it told."""
    import ray  # noqa: PLC0415 - seconds to import

    address = ray.get_runtime_context().gcs_address
    told = finish(begin(folder, folder / "out.jsonl", "--address", address), exit_code=2)
    assert not (folder / "out.jsonl").exists()
    return told.strip().splitlines()[-1]


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
