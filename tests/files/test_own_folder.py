"""A process's own folder goes with it: at its end, or, after a kill, when the next one comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ensemble.files.own_folder import own_folder

PREFIX = ".work-"
_HOLD = """
import sys
from pathlib import Path
from ensemble.files.own_folder import own_folder

with own_folder(Path(sys.argv[1]), prefix=sys.argv[2]) as folder:
    (folder / "part").write_text("of the work")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def hold(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that has a folder until its input closes."""
    command = [sys.executable, "-c", _HOLD, str(parent), PREFIX]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None
    return process, parent / process.stdout.readline().strip()


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    killed, left = hold(tmp_path)
    living, held = hold(tmp_path)
    (tmp_path / "other").mkdir()
    killed.kill()
    killed.communicate()
    before = left.is_dir(), held.is_dir()

    with own_folder(tmp_path, prefix=PREFIX) as folder:
        folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    living.communicate("")

    assert before == (True, True)
    assert folders == {"other", held.name, folder.name}
    assert {path.name for path in tmp_path.iterdir()} == {"other", f".{PREFIX}.lock"}


def test_what_was_left_without_a_lock_goes_too(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}abc" / "deep").mkdir(parents=True)
    (tmp_path / f".{PREFIX}xyz.lock").touch()

    with own_folder(tmp_path, prefix=PREFIX) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, f".{folder.name}.lock", f".{PREFIX}.lock"}
