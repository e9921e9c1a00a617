"""What ``ensemble serve`` and ``ensemble status`` tell of replicas that start, are killed, or cannot start."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from ensemble.checkpoints.resolve import _identify
from tests.checkpoints.tiny_models import write_tiny_gguf
from tests.cli.serve_runs import END_TIMEOUT_S, START_TIMEOUT_S, ask, find_replica, serving, wait_for_line
from tests.cli.specs import write_spec
from tests.engines.tiny_checkpoints import save_parrot
from tests.ports import HOST, free_port

pytestmark = pytest.mark.ray

SPEC = """
version: 1
name: starting
router: {{port: {port}}}
members:
  - {{name: quick, family: x, engine: {{type: echo}}, resources: {{cpus: 0.1}}}}
  - name: tiny
    family: y
    checkpoint: {checkpoint}
    {more}
    engine: {{type: embedded, device: cpu, threads: 1, max_context: 64}}
    resources: {{cpus: 0.1}}
ensembles:
  - {{name: default, members: [quick, tiny]}}
serving: {{start_timeout_s: 600, health_check_period_s: 1}}
"""
WAITS = "wait for another process that converts it"


def read_member(endpoint: str) -> dict[str, Any]:
    """Ask what is known of the member that starts, once the endpoint answers."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while True:
        status = ask("status", "--endpoint", endpoint, "--json")
        if status.returncode == 0:
            member: dict[str, Any] = json.loads(status.stdout)["ensembles"][0]["members"][1]
            return member
        assert time.monotonic() < until_s, status.stderr


def wait_for_start(endpoint: str, *, other_than: str = "") -> dict[str, Any]:
    """Wait until a replica waits for the conversion, and give where it is."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while True:
        for start in read_member(endpoint)["starts"]:
            if start["phase"] == WAITS and start["replica_id"] != other_than:
                return dict(start)
        assert time.monotonic() < until_s


@pytest.mark.timeout(900)
def test_phases_reach_serve_and_status_and_a_killed_start_is_replaced(tmp_path: Path) -> None:
    checkpoint = write_tiny_gguf(tmp_path / "tiny.gguf")
    cache = tmp_path / "cache"
    lock = cache / "checkpoints" / "digests" / f".{_identify(checkpoint)}.lock"
    lock.parent.mkdir(parents=True)
    port, output = free_port(), tmp_path / "output"
    spec = write_spec(tmp_path, SPEC.format(port=port, checkpoint=checkpoint, more=""))
    endpoint = f"{HOST}:{port}"

    with serving(spec, output, environment={"ENSEMBLE_CACHE_DIR": str(cache)}) as process:
        with FileLock(lock):
            wait_for_line(f"member-tiny: 0 of 1 up, updating: {WAITS}", process, output)
            first = wait_for_start(endpoint)
            find_replica(psutil.Process(process.pid), "starting:member-tiny").kill()
            second = wait_for_start(endpoint, other_than=first["replica_id"])
        wait_for_line("Ctrl-C", process, output)
        until_s = time.monotonic() + START_TIMEOUT_S
        while not (member := read_member(endpoint))["replicas"]:
            assert time.monotonic() < until_s, member
        process.send_signal(signal.SIGINT)
        process.wait(END_TIMEOUT_S)

    assert second["problem"] == ""
    assert second["phase_s"] < START_TIMEOUT_S
    assert [replica["replica_id"] for replica in member["replicas"]] == [second["replica_id"]]
    # The killed one's last word is kept until it has been silent for long.
    assert {start["replica_id"] for start in member["starts"]} <= {first["replica_id"]}
    assert "Traceback" not in output.read_text("utf-8")


def end_of_failed_start(tmp_path: Path, checkpoint: str, more: str = "") -> str:
    """Serve a member that cannot start, check the manners of the end, and give its last line."""
    output = tmp_path / "output"
    spec = write_spec(tmp_path, SPEC.format(port=free_port(), checkpoint=checkpoint, more=more))
    with serving(spec, output, environment={"ENSEMBLE_CACHE_DIR": str(tmp_path / "cache")}) as process:
        exit_code = process.wait(START_TIMEOUT_S)
    told = output.read_text("utf-8")
    logs = re.search(r"Ray's logs: (/\S+)", told)
    assert logs is not None, told
    shutil.rmtree(logs[1])
    assert exit_code == 2, told
    assert "Traceback" not in told
    return told.splitlines()[-1]


@pytest.mark.timeout(600)
def test_a_wrong_digest_is_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    checkpoint = write_tiny_gguf(tmp_path / "tiny.gguf")
    wrong = f"sha256:{'0' * 64}"

    line = end_of_failed_start(tmp_path, str(checkpoint), more=f"checkpoint_digest: {wrong}")

    assert line.startswith(f"ensemble: starting: it did not come up: member-tiny: {checkpoint}: its digest is sha256:")
    assert wrong in line
    assert "in the phase 'check digest'" in line
    assert not list((tmp_path / "cache").glob("**/config.json"))


@pytest.mark.timeout(600)
def test_a_model_that_gives_nan_is_one_line_at_the_start(tmp_path: Path) -> None:
    checkpoint = save_parrot(tmp_path / "parrot", "abc", broken_by="")
    spoil_weights(Path(checkpoint))

    line = end_of_failed_start(tmp_path, checkpoint)

    assert line.startswith(f"ensemble: starting: it did not come up: member-tiny: {checkpoint}: ")
    assert "not numbers" in line


def spoil_weights(folder: Path) -> None:
    """Make every weight NaN."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - torch takes seconds to import

    tensors = {name: tensor.fill_(float("nan")) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
