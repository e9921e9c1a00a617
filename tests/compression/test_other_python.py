"""Scripts of another Python: heard, told about when they fail, and never left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ensemble.compression.other_python import OtherPython
from ensemble.errors import ConfigError

_PARENT = """
import sys
from pathlib import Path
from ensemble.compression.other_python import OtherPython
python = OtherPython(executable=Path(sys.executable), where="step", timeout_s=300.0)
python.run(Path(sys.argv[1]), Path(sys.argv[2]), on_message=lambda message: print("heard", flush=True))
"""
_HANG = """
import json, os, subprocess, sys, threading, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
(Path(sys.argv[1]) / "pids").write_text(f"{os.getpid()} {child.pid}")
print(json.dumps({"phase": "begun", "share": 0.0}), flush=True)
time.sleep(300)
"""


def run(folder: Path, text: str, *, timeout_s: float = 60.0, on_message: Any = None) -> list[dict[str, Any]]:
    script = folder / "script.py"
    script.write_text(text)
    heard: list[dict[str, Any]] = []
    python = OtherPython(executable=Path(sys.executable), where="step", timeout_s=timeout_s)
    python.run(script, folder, on_message=on_message or heard.append)
    return heard


def are_gone(pids: list[int], *, within_s: float = 30.0) -> bool:
    """Wait for processes to end."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if not any(map(is_there, pids)):
            return True
        time.sleep(0.05)
    return False


def is_there(pid: int) -> bool:
    """Say whether a process runs; one that nobody has collected yet has ended, too."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def read_pids(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text().split()]


def test_every_json_object_on_a_line_of_its_own_is_heard_in_order(tmp_path: Path) -> None:
    heard = run(tmp_path, 'print(\'{"a": 1}\\nINFO | words\\n[2]\\n{"a": 3}\')')

    assert heard == [{"a": 1}, {"a": 3}]


def test_a_script_that_fails_is_told_about_by_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"step: it failed with status 1: .*ValueError: no such layer"):
        run(tmp_path, "raise ValueError('no such layer')")


def test_a_script_that_a_signal_ends_is_told_about_by_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it was ended by signal 9"):
        run(tmp_path, "import os; os.kill(os.getpid(), 9)")


def test_a_script_sees_neither_this_environments_paths_nor_the_modules_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "paths"))

    (heard,) = run(tmp_path, "import json, sys; print(json.dumps({'paths': sys.path}))")

    assert not [path for path in heard["paths"] if path.startswith(str(tmp_path))]


def test_a_script_that_takes_too_long_is_ended_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun = threading.Event()

    class PatientTimer(threading.Timer):
        """Begins to count once the script has begun: how long a machine takes to start one is its own affair."""

        def run(self) -> None:
            has_begun.wait(60.0)
            super().run()

    monkeypatch.setattr("ensemble.compression.other_python.threading.Timer", PatientTimer)

    with pytest.raises(ConfigError, match=r"it took longer than 0.1 s; give timeout_s more"):
        run(tmp_path, _HANG, timeout_s=0.1, on_message=lambda _message: has_begun.set())

    assert are_gone(read_pids(tmp_path / "pids"))


def test_what_is_raised_while_listening_ends_the_script_with_what_it_started(tmp_path: Path) -> None:
    def interrupt(_message: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, _HANG, on_message=interrupt)

    assert are_gone(read_pids(tmp_path / "pids"))


def test_a_killed_parent_closes_what_the_script_watches(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nPath(sys.argv[1], 'pids').write_text(str(os.getpid()))\n"
        "print('{}', flush=True)\nwhile os.read(0, 1): pass"
    )
    command = [sys.executable, "-c", _PARENT, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:  # noqa: S603
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"heard\n"

        parent.send_signal(signal.SIGKILL)

    assert are_gone(read_pids(tmp_path / "pids"))


def test_a_python_that_is_not_there_is_refused_with_how_to_build_it(tmp_path: Path) -> None:
    python = OtherPython(executable=tmp_path / "python", where="step", timeout_s=1.0)

    with pytest.raises(ConfigError, match=r"python is no Python; build the environment \(make compress-env\)"):
        python.check()


def test_a_python_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "python").write_bytes(b"\x7fELF")
    (tmp_path / "python").chmod(0o755)
    python = OtherPython(executable=tmp_path / "python", where="step", timeout_s=1.0)

    with pytest.raises(ConfigError, match="cannot be run"):
        python.run(tmp_path / "script.py", tmp_path, on_message=lambda _message: None)
