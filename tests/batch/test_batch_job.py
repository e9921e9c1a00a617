"""A batch that is a Ray job on two nodes outlives its driver, a worker and the head."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.specs import write_spec

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 1_500.0
NUM_ITEMS = 192
SPEC = json.dumps(
    {
        "version": 1,
        "members": [
            {"name": name, "family": name, "engine": {"type": "echo", "seed": seed, "delay_s": 0.5}}
            | {"resources": {"cpus": 0.1}}
            for seed, name in enumerate(("a", "b"))
        ],
        "ensembles": [{"name": "default", "members": ["a", "b"]}],
    }
)


@pytest.mark.ray
@pytest.mark.timeout(TIMEOUT_S)
def test_a_job_whose_driver_worker_and_head_are_killed_writes_the_bytes_of_a_quiet_one(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    rows = ({"id": f"q{n}", "prompt": f"Question {n}?", "choices": ["red", "green"]} for n in range(NUM_ITEMS))
    items.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    command = [sys.executable, str(ROOT / "benchmarks" / "batch_kills.py"), "--spec", str(write_spec(tmp_path, SPEC))]
    sizes = ["--data", str(items), "--items", str(NUM_ITEMS), "--concurrency", "8", "--shard-items", "8"]

    done = subprocess.run([*command, *sizes], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S603

    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("driver", "worker", "head"):
        assert f"kill -9 of the {what}" in done.stdout
    assert f"items={NUM_ITEMS} kills=3 missing=0 twice=0 same_order=True same_bytes=True" in done.stdout
