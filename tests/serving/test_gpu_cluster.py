"""Members on GPUs, on a real cluster that only believes to have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tiny_checkpoints import save_random_llama

pytestmark = pytest.mark.ray


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
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**document, "locks": sorted(path.name for path in (folder / "locks").glob("*.holder-*"))}


def test_a_parallel_member_has_its_bundles_while_it_runs(seen: dict[str, Any]) -> None:
    assert seen["parallel"]["bundles"] == [{"GPU": 1.0, "CPU": 1.0}, {"GPU": 1.0}]
    assert seen["parallel"]["free"] == 2.0


def test_its_bundles_are_free_once_it_is_gone(seen: dict[str, Any]) -> None:
    assert seen["parallel"]["released"] is True


def test_two_members_share_one_gpu_and_take_turns_to_start(seen: dict[str, Any]) -> None:
    assert seen["shared"]["free"] == 3.0
    # One note, by whoever started last, of the one GPU.
    assert len(seen["locks"]) == 1
