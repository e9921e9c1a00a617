"""``ensemble serve`` as people run it: a process of its own, asked from others, ended by a signal."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.serve_runs import END_TIMEOUT_S, START_TIMEOUT_S, ask, serving, wait_for_line
from tests.cli.specs import write_spec
from tests.ports import HOST, free_port

pytestmark = pytest.mark.ray

SPEC = """
version: 1
name: served-by-test
router: {{port: {port}}}
members:
  - {{name: quick, family: x, engine: {{type: echo, seed: 1}}, resources: {{cpus: 0.1}}}}
  - {{name: twin, family: y, engine: {{type: echo, seed: 1}}, resources: {{cpus: 0.1}}}}
  - {{name: slow, family: z, engine: {{type: echo, delay_s: 30}}, resources: {{cpus: 0.1, gpus: {gpus}}}}}
ensembles:
  - {{name: default, members: [quick, twin, slow]}}
"""


def members_of(endpoint: Sequence[str]) -> list[dict[str, Any]]:
    """Ask how the members do, until each one's replica has answered in time."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while True:
        members: list[dict[str, Any]] = json.loads(ask("status", *endpoint, "--json").stdout)["ensembles"][0]["members"]
        if all(member["replicas"] for member in members):
            return members
        assert time.monotonic() < until_s, members


def vote_until_stopped(endpoint: Sequence[str]) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Vote until the late member was at work when the vote was decided: a call that never left stops nothing."""
    num_votes, aborted = 0, False
    while not aborted and num_votes < 10:
        voted = ask("classify", "Is the sky blue?", "yes", "no", *endpoint, "--json")
        num_votes += 1
        late = members_of(endpoint)[2]["replicas"][0]["stats"]
        aborted = late["aborted_requests"] > 0
    return num_votes, json.loads(voted.stdout), late


@pytest.mark.timeout(600)
def test_a_spec_is_served_asked_and_ended_by_ctrl_c_without_leftovers(tmp_path: Path) -> None:
    port = free_port()
    output = tmp_path / "output"
    endpoint = ("--endpoint", f"{HOST}:{port}")

    with serving(write_spec(tmp_path, SPEC.format(port=port, gpus=0)), output) as process:
        wait_for_line("Ctrl-C", process, output)
        children = psutil.Process(process.pid).children(recursive=True)
        num_votes, decision, late = vote_until_stopped(endpoint)
        written = ask("ask", "Hello there", *endpoint, "--member", "quick", "--member", "twin")
        members = members_of(endpoint)
        # To the whole group, as a terminal does it: Ray's own processes must survive it to drain.
        os.killpg(process.pid, signal.SIGINT)
        exit_code = process.wait(END_TIMEOUT_S)

    assert decision["decided_by"] == "lossless_quorum"
    assert [abstention["member"] for abstention in decision["abstentions"]] == ["slow"]
    assert written.returncode == 0
    assert "decided after 2 of 2 ballots" in written.stdout
    assert [len(member["replicas"]) for member in members] == [1, 1, 1]
    assert 1 <= late["aborted_requests"] <= num_votes
    assert late["finished_requests"] == 0
    assert members[0]["replicas"][0]["stats"]["finished_requests"] == num_votes + 1
    told = output.read_text("utf-8")
    assert exit_code == 0, told
    assert "member-slow: 1 of 1 up, healthy" in told
    assert told.splitlines()[-2:] == ["draining", "ended"]
    assert "Traceback" not in told
    _, alive = psutil.wait_procs(children, timeout=30)
    assert [process.name() for process in alive] == []
    with socket.socket() as probe:
        assert probe.connect_ex((HOST, port)) != 0


@pytest.mark.timeout(600)
def test_a_gpu_that_no_node_has_is_refused_with_its_place(tmp_path: Path) -> None:
    output = tmp_path / "output"

    with serving(write_spec(tmp_path, SPEC.format(port=free_port(), gpus=999)), output) as process:
        exit_code = process.wait(START_TIMEOUT_S)

    told = output.read_text("utf-8")
    assert exit_code == 2, told
    problem = "all replicas together ask for 999, but the machines have 0"
    assert told.splitlines() == [f"ensemble: resources.gpus: {problem}; ask for less, or add a node"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_ends_with_130_and_without_leftovers(number: signal.Signals, tmp_path: Path) -> None:
    output = tmp_path / "output"

    with serving(write_spec(tmp_path, SPEC.format(port=free_port(), gpus=0)), output) as process:
        wait_for_line("member-quick: 0 of 1 up", process, output)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        exit_code = process.wait(END_TIMEOUT_S)

    told = output.read_text("utf-8")
    assert exit_code == 130, told
    assert "Traceback" not in told
    _, alive = psutil.wait_procs(children, timeout=30)
    assert [process.name() for process in alive] == []
