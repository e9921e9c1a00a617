"""``ensemble batch`` as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 240.0


def begin(folder: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Start a batch over the folder's ``spec.yaml`` and ``in.jsonl``."""
    command = [sys.executable, "-m", "ensemble.cli", "batch", str(folder / "spec.yaml"), str(folder / "in.jsonl")]
    return subprocess.Popen(  # noqa: S603 - our own program
        [*command, str(out), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], *, exit_code: int = 0) -> str:
    """Wait for a batch's end; gives what it told."""
    told, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == exit_code, told
    return told
