"""Members on GPUs, on a real cluster that only believes to have them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tiny_checkpoints import save_random_llama

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the cluster in a process of its own, which ends it; give what was seen."""
    folder = tmp_path_factory.mktemp("gpus")
    command = [sys.executable, "-m", "tests.serving.gpu_cluster_run", save_random_llama(folder / "model")]
    done = subprocess.run(  # noqa: S603 - this module's own program
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "ENSEMBLE_GPU_LOCK_DIR": str(folder / "locks")},  # noqa: TID251 - handed on
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def test_a_parallel_member_has_its_bundles_while_it_runs(seen: dict[str, Any]) -> None:
    assert seen["parallel"]["bundles"] == [{"GPU": 1.0, "CPU": 1.0}, {"GPU": 1.0}]
    assert seen["parallel"]["free"] == 2.0


def test_its_bundles_are_free_once_it_is_gone(seen: dict[str, Any]) -> None:
    assert seen["parallel"]["released"] is True


def test_two_members_share_one_gpu_and_take_turns_to_start(seen: dict[str, Any]) -> None:
    waits = seen["shared"]["waits"]
    first = [
        re.fullmatch(r"waits for member outsider \(process \d+\) to start on GPU (\S+)", one[0])
        for one in waits.values()
    ]
    later = [(name, line) for name, lines in waits.items() for line in lines[1:]]

    assert seen["shared"]["free"] == 3.0
    # Both wait for the one GPU's turn, and when it is free, one of them for the other.
    assert set(waits) == {"member-a", "member-b"}
    assert len({match and match[1] for match in first}) == 1
    assert all(first)
    assert len(later) == 1
    waiting, line = later[0]
    assert line.startswith("waits for member b" if waiting == "member-a" else "waits for member a")
