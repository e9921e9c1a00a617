"""Processor time is that of this process, of those that it started, and of those that they started."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
input()
worker.communicate(b"end")
print("ended", flush=True)
input()
"""
FAMILY = f"""
import subprocess, sys
from ensemble.variants.process_clock import read_cpu_s
before_s = read_cpu_s()
starter = subprocess.Popen([sys.executable, "-c", {STARTER!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
assert starter.stdout.readline() == b"worked\\n"
print(read_cpu_s() - before_s)
starter.stdin.write(b"go on\\n")
starter.stdin.flush()
assert starter.stdout.readline() == b"ended\\n"
print(read_cpu_s() - before_s)
starter.communicate(b"end\\n")
print(read_cpu_s() - before_s)
"""


def run(program: str) -> list[float]:
    """Run a program that prints numbers; in this process, others' children would count."""
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603 - our own program
    return [float(word) for word in told.split()]


def test_waiting_costs_nothing_and_work_costs_its_time() -> None:
    idle_s, used_s = run(ALONE)

    assert idle_s < 0.1
    assert used_s == pytest.approx(0.2, abs=0.05)


def test_a_grandchild_counts_while_it_runs_and_once_it_and_then_its_starter_have_ended() -> None:
    running_s, ended_s, all_ended_s = run(FAMILY)

    assert running_s >= 0.27  # in hundredths, each part rounded down
    assert ended_s >= running_s - 0.02
    assert all_ended_s >= ended_s - 0.02
