"""``ensemble serve`` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

START_TIMEOUT_S = 240.0
END_TIMEOUT_S = 120.0
ASK_TIMEOUT_S = 60.0


@contextmanager
def serving(
    spec: Path, output: Path, *, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command in a session of its own, and leave nothing of it behind whatever happens."""
    with output.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "ensemble.cli", "serve", str(spec)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},  # noqa: TID251
        )
    family: list[psutil.Process] = []
    try:
        yield process
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait(END_TIMEOUT_S)
        for member in family:
            if member.is_running():
                member.kill()


def find_replica(parent: psutil.Process, title: str) -> psutil.Process:
    """Find a replica's process among those that another one started, by the title that Ray gives it."""
    (process,) = [child for child in parent.children(recursive=True) if title in _command(child)]
    return process


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended: another one's, whose parent has not looked yet
        return ""


def wait_for_line(line: str, process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until the command has said something."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while line not in output.read_text("utf-8"):
        assert process.poll() is None, output.read_text("utf-8")
        assert time.monotonic() < until_s, output.read_text("utf-8")
        time.sleep(0.1)  # its output is all that another process has to go by


def ask(*args: str) -> subprocess.CompletedProcess[str]:
    """Run another command."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "ensemble.cli", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=ASK_TIMEOUT_S,
    )
