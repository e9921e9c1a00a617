"""Processor time is that of this process, of those that it started, and of those that they started."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ensemble.variants.process_clock import read_cpu_s

ALONE = """
import time
from ensemble.variants.process_clock import read_cpu_s
before_s = read_cpu_s()
time.sleep(0.3)
idle_s = read_cpu_s() - before_s
until_s = time.process_time() + 0.2
while time.process_time() < until_s:
    pass
print(idle_s, read_cpu_s() - before_s - idle_s)
"""
"""In a process that has no children: those of the tests' own process may be at work."""
WORKER = """
import time
while time.process_time() < 0.3:
    pass
print("worked", flush=True)
input()
"""
STARTER = f"""
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}], stdin=subprocess.PIPE)
print("started", flush=True)
input()
worker.communicate(b"end")
"""


def test_waiting_costs_nothing_and_work_costs_its_time() -> None:
    told = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", ALONE], stdout=subprocess.PIPE, text=True, check=True
    ).stdout

    idle_s, used_s = map(float, told.split())

    assert idle_s < 0.1
    assert used_s == pytest.approx(0.2, abs=0.05)


def test_a_grandchild_counts_while_it_runs_and_once_it_has_ended() -> None:
    before_s = read_cpu_s()
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        said = child.stdout.readline() + child.stdout.readline()
        running_s = read_cpu_s() - before_s
        child.communicate(b"end\n")
    ended_s = read_cpu_s() - before_s

    assert sorted(said.split()) == [b"started", b"worked"]
    assert running_s >= 0.27  # in hundredths, each part rounded down
    assert ended_s >= running_s - 0.02
