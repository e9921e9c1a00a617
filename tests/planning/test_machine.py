"""What this machine has: what its container leaves of it, and what NVIDIA's driver says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ensemble.errors import ConfigError
from ensemble.planning.container import limit_cpus, limit_memory
from ensemble.planning.fit import find_gpus
from ensemble.planning.machine import local_node, query_gpus

HOST_BYTES = 64 * 2**30


def write_groups(folder: Path, own: str, limits: dict[str, str]) -> dict[str, Path]:
    """Write a tree of control groups as the kernel shows it."""
    for name, text in limits.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text)
    (folder / "own").write_text(own)
    return {"groups": folder / "groups", "own": folder / "own"}


def test_a_containers_limits_count_and_not_the_hosts_memory_and_cores(tmp_path: Path) -> None:
    groups = write_groups(tmp_path, "0::/\n", {"memory.max": f"{8 * 2**30}\n", "cpu.max": "150000 100000\n"})

    assert limit_memory(HOST_BYTES, **groups) == 8 * 2**30
    assert limit_cpus(16.0, **groups) == 1.5


def test_the_tightest_of_the_groups_around_a_process_counts(tmp_path: Path) -> None:
    limits = {"pod/memory.max": f"{4 * 2**30}", "pod/one/memory.max": f"{6 * 2**30}", "other/memory.max": "1"}
    groups = write_groups(tmp_path, "0::/pod/one\n", limits)

    assert limit_memory(HOST_BYTES, **groups) == 4 * 2**30


def test_a_group_that_is_shown_as_the_outermost_counts_under_its_hosts_path_too(tmp_path: Path) -> None:
    groups = write_groups(tmp_path, "0::/docker/1a2b\n", {"memory.max": f"{2 * 2**30}"})

    assert limit_memory(HOST_BYTES, **groups) == 2 * 2**30


def test_limits_of_the_first_version_count(tmp_path: Path) -> None:
    limits = {
        "memory/pod/memory.limit_in_bytes": f"{3 * 2**30}",
        "cpu/pod/cpu.cfs_quota_us": "50000",
        "cpu/pod/cpu.cfs_period_us": "100000",
    }
    groups = write_groups(tmp_path, "4:memory:/pod\n3:cpu,cpuacct:/pod\n0::/\n", limits)

    assert limit_memory(HOST_BYTES, **groups) == 3 * 2**30
    assert limit_cpus(16.0, **groups) == 0.5


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"memory.max": "max\n", "cpu.max": "max 100000\n"},
        {"memory/memory.limit_in_bytes": "9223372036854771712", "cpu/cpu.cfs_quota_us": "-1"},
    ],
)
def test_without_limits_the_host_counts(tmp_path: Path, limits: dict[str, str]) -> None:
    groups = write_groups(tmp_path, "4:memory:/\n3:cpu,cpuacct:/\n0::/\n", limits)

    assert (limit_memory(HOST_BYTES, **groups), limit_cpus(16.0, **groups)) == (HOST_BYTES, 16.0)


def test_cores_that_this_process_may_not_use_do_not_count() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})

    try:
        node = local_node()
    finally:
        os.sched_setaffinity(0, allowed)

    assert node.cpus <= 1.0


def put_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program in the place of NVIDIA's tool."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_driver_that_is_not_awake_yet_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    awake = tmp_path / "awake"
    put_driver(tmp_path, monkeypatch, f'[ -e {awake} ] || {{ : > {awake}; exit 9; }}; echo "0, H100, GPU-1a, 81559"')

    (gpu,) = find_gpus(["0"])

    assert (gpu.uuid, gpu.memory_bytes) == ("GPU-1a", 81559 * 2**20)


def test_a_gpu_that_the_driver_does_not_tell_of_is_no_name_to_take_turns_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_driver(tmp_path, monkeypatch, "echo 'Unable to determine the device handle'; exit 9")

    with pytest.raises(ConfigError, match="does not tell") as caught:
        find_gpus(["0"])

    assert "Unable to determine the device handle" in caught.value.problem
    assert all(gpu.memory_bytes is None for gpu in query_gpus())
