"""How much processor time this process and those that it started have used; on Linux, whose /proc says so."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_TICKS = slice(11, 15)
"""Fields of /proc/PID/stat after the name, which may hold anything: user and system time, its own and that of its
children which have ended."""


def read_cpu_s() -> float:
    """Give the seconds of all threads, of children to a hundredth; those that have ended count, too."""
    times = os.times()
    started_s = sum(_read_ticks(child) for child in _find_children(os.getpid())) / _TICKS_PER_S
    return time.process_time() + times.children_user + times.children_system + started_s


def _find_children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text("utf-8").split())
    except (FileNotFoundError, ProcessLookupError):
        # It ended while it was looked at.
        return found
    return found + [grandchild for child in found for grandchild in _find_children(child)]


def _read_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, fields[_TICKS]))
