"""Fetching from a hub that runs in this process: what comes, how it is told, and that it comes once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ensemble.checkpoints.hub import _silent_bar
from tests.checkpoints.hub_server import hub_running
from tests.checkpoints.tiny_models import build_llama, save

PROGRAM = """
import json, sys
from ensemble.checkpoints import resolve_checkpoint
from ensemble.errors import CheckpointError
heard = []
try:
    folder = resolve_checkpoint(sys.argv[1], on_phase=lambda name, share: heard.append((name, share)))
    print(json.dumps({"folder": str(folder), "heard": heard}))
except CheckpointError as error:
    print(json.dumps({"error": str(error), "heard": heard}))
"""


def start(address: str, home: Path, reference: str = "org/name") -> subprocess.Popen[str]:
    """Fetch in a process of its own: the hub's library reads its environment when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}  # noqa: TID251
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", PROGRAM, reference], env=environment, stdout=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    output, _ = process.communicate(timeout=120)
    outcome: dict[str, object] = json.loads(output)
    return outcome


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    save(build_llama(), folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


def test_a_repository_is_fetched_with_progress_and_without_pickles(repository: Path, tmp_path: Path) -> None:
    with hub_running(repository) as (address, fetched):
        outcome = finish(start(address, tmp_path / "home"))

    assert "error" not in outcome
    names = {path.name for path in Path(str(outcome["folder"])).iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert "pytorch_model.bin" not in names | set(fetched)
    heard = outcome["heard"]
    assert isinstance(heard, list)
    shares = [share for name, share in heard if name.startswith("download ") and name.endswith(" MB")]
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


def test_what_several_threads_fetch_never_becomes_less() -> None:
    told: list[float] = []

    def tell(num_bytes: float) -> None:
        if num_bytes == 1.0:
            other.start()
            # For as long as the first has not told its own, the other may not overtake it.
            other.join(0.2)
        told.append(num_bytes)

    bar = _silent_bar(tell)(unit="B")
    other = threading.Thread(target=bar.update)

    bar.update()
    other.join()

    assert told == [1.0, 2.0]


def test_two_processes_fetch_a_repository_once(repository: Path, tmp_path: Path) -> None:
    with hub_running(repository) as (address, fetched):
        outcomes = [finish(one) for one in [start(address, tmp_path / "home") for _ in range(2)]]

    assert outcomes[0]["folder"] == outcomes[1]["folder"]
    assert sorted(fetched) == sorted(set(fetched))
    assert "model.safetensors" in fetched


def test_what_was_fetched_is_there_without_the_hub(repository: Path, tmp_path: Path) -> None:
    with hub_running(repository) as (address, _):
        first = finish(start(address, tmp_path / "home"))

    second = finish(start("http://127.0.0.1:1", tmp_path / "home"))

    assert second["folder"] == first["folder"]


def test_a_repository_that_the_hub_lacks_is_refused(repository: Path, tmp_path: Path) -> None:
    with hub_running(repository) as (address, _):
        outcome = finish(start(address, tmp_path / "home", "org/another"))

    assert str(outcome["error"]).startswith("org/another: ")
