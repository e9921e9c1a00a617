"""What a container leaves to this process of its machine: the limits of Linux's control groups, of either version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def limit_memory(host_bytes: int, *, groups: Path = GROUPS, own: Path = OWN_GROUPS) -> int:
    """Give the host's memory, or the least that a group of this process is limited to."""
    new = [_numbers(folder / "memory.max") for folder in _folders(groups, own)]
    old = [_numbers(folder / "memory.limit_in_bytes") for folder in _folders(groups / "memory", own, "memory")]
    return min([host_bytes, *(numbers[0] for numbers in (*new, *old) if numbers)])


def limit_cpus(host_cpus: float, *, groups: Path = GROUPS, own: Path = OWN_GROUPS) -> float:
    """Give the host's cores, or the least that a group of this process is limited to."""
    new = [_numbers(folder / "cpu.max") for folder in _folders(groups, own)]
    old = [
        _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
        for folder in _folders(groups / "cpu", own, "cpu")
    ]
    # Microseconds of one core's time, in a period of so many.
    limits = [numbers for numbers in (*new, *old) if len(numbers) == 2]
    return min([host_cpus, *(quota / period for quota, period in limits)])


def _folders(mount: Path, own: Path, controller: str = "") -> Iterator[Path]:
    """Give the folders of this process's group and of those around it; of the second version without a controller.

    A container may see its own group as the outermost one, and still be told the group's path on the host.
    """
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            folder = mount / path.lstrip("/")
            yield from (folder, *(around for around in folder.parents if around.is_relative_to(mount)))


def _numbers(path: Path) -> tuple[int, ...]:
    """Read a limit's numbers; none where it is not set, which is said by ``max`` or a negative one."""
    try:
        words = path.read_text("utf-8").split()
    except OSError:
        return ()
    return tuple(map(int, words)) if words and all(word.isdecimal() and int(word) for word in words) else ()
