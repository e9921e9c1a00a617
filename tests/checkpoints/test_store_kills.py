"""A writer that is killed at any moment leaves nothing that loads, and the next one finishes what it began."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.checkpoints import resolve_checkpoint
from ensemble.checkpoints.check_reference import check_reference
from ensemble.checkpoints.digest import compute_digest
from ensemble.checkpoints.store import CheckpointStore
from ensemble.checkpoints.store_listing import list_models
from ensemble.errors import CheckpointError
from tests.checkpoints.stores import KINDS, files_in, put, url_of


def phases_of_a_put(checkpoint: Path, folder: Path) -> list[str]:
    phases: list[str] = []
    store = CheckpointStore.at(str(folder))
    store.put(checkpoint, "x", family="x", source="x", on_phase=lambda name, _share: phases.append(name))
    return phases


def kill_in(mode: str, url: str, folder: Path, *, stop: int) -> None:
    """Run a process that kills itself when so many phases are behind it."""
    command = [sys.executable, "-m", "tests.checkpoints.dying_store_user", mode, url, str(folder), str(stop)]

    done = subprocess.run(command, check=False, timeout=100)  # noqa: S603 - this test's own program

    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", ["store", "store its manifest", "store its name"])
def test_a_killed_writer_leaves_no_name_and_only_a_whole_object_loads(
    kind: str, phase: str, checkpoint: Path, tmp_path: Path
) -> None:
    phases, url = phases_of_a_put(checkpoint, tmp_path / "other"), url_of(kind, tmp_path / "store")
    first = phases.index(phase)
    # Of a copy's phases the one in its middle.
    stop = first + (phases.count(phase) - 1) // 2
    digest = compute_digest(str(checkpoint))

    kill_in("put", url, checkpoint, stop=stop)

    assert list((tmp_path / "store").rglob("model.safetensors")) or phase == "store"
    assert list((tmp_path / "store").rglob("config.json"))
    assert list_models(CheckpointStore.at(url)) == ()
    with pytest.raises(CheckpointError, match="no such name"):
        check_reference(f"store:tiny@{url}")
    if phase == "store its name":
        check_reference(f"store:{digest}@{url}")
    else:
        with pytest.raises(CheckpointError, match="no whole checkpoint"):
            check_reference(f"store:{digest}@{url}")
    put(CheckpointStore.at(url), checkpoint, "tiny")
    assert compute_digest(f"store:tiny@{url}", cache_dir=tmp_path / "cache") == digest
    assert not list((tmp_path / "store").rglob(".partial-*"))


def test_a_killed_fetch_leaves_nothing_that_loads_and_the_next_one_is_whole(checkpoint: Path, tmp_path: Path) -> None:
    url, quiet, killed = url_of("remote", tmp_path / "store"), tmp_path / "quiet", tmp_path / "killed"
    put(CheckpointStore.at(url), checkpoint, "tiny")
    whole = resolve_checkpoint(f"store:tiny@{url}", cache_dir=quiet)

    for stop in (0, 6):
        kill_in("fetch", url, killed, stop=stop)
        assert list((killed / "fetched").glob(".partial-*"))
        assert not list((killed / "fetched").glob("sha256-*"))

    assert files_in(resolve_checkpoint(f"store:tiny@{url}", cache_dir=killed)) == files_in(whole)
    assert not list((killed / "fetched").glob(".partial-*"))
