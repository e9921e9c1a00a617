"""Machines as a plan sees them: cores, memory and GPUs."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ensemble.errors import ConfigError
from ensemble.planning.container import limit_cpus, limit_memory

GIB = 2**30
QUERY_TIMEOUT_S = 30.0
"""The driver may have to wake up first."""
QUERY_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU; ``memory_bytes`` is None where nobody could tell."""

    index: int
    name: str = ""
    uuid: str = ""
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine; ``reservable_bytes`` is what a cluster gives away of its memory, None where that is all."""

    name: str
    cpus: float
    memory_bytes: int
    reservable_bytes: int | None = None
    gpus: tuple[Gpu, ...] = ()


def query_gpus() -> tuple[Gpu, ...]:
    """Ask NVIDIA's driver for this machine's GPUs; their devices alone where it does not answer."""
    try:
        known = ask_driver()
    except ConfigError:
        known = None
    if known is not None:
        return known
    devices = [device for device in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", device.name)]
    return tuple(Gpu(index=index) for index in range(len(devices)))


def ask_driver() -> tuple[Gpu, ...] | None:
    """Ask NVIDIA's driver for this machine's GPUs, twice if need be; None where its tool is not installed.

    Raises:
        ConfigError: the tool is there, and tells nothing.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=index,name,uuid,memory.total", "--format=csv,noheader,nounits"]
    problem = ""
    for _ in range(QUERY_TRIES):
        try:
            done = subprocess.run(  # noqa: S603 - the command is this one
                command, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=True
            )
        except subprocess.CalledProcessError as error:
            problem = f"{error}: {' '.join((error.stdout + error.stderr).split())}"
        except (OSError, subprocess.SubprocessError) as error:
            problem = str(error)
        else:
            return parse_gpus(done.stdout)
    raise ConfigError(
        "resources.gpus", f"NVIDIA's driver does not tell of this machine's GPUs ({problem})", "see `nvidia-smi` there"
    )


def parse_gpus(table: str) -> tuple[Gpu, ...]:
    """Read the driver's table: index, name, uuid, MiB of memory; a row that is none of that is left out."""
    gpus = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4 and cells[0].isdecimal():
            mib = cells[3]
            memory_bytes = int(mib) * 2**20 if mib.isdecimal() else None
            gpus.append(Gpu(index=int(cells[0]), name=cells[1], uuid=cells[2], memory_bytes=memory_bytes))
    return tuple(gpus)


def local_node() -> Node:
    """Describe this machine, or what of it the container and the cores that this process may use leave."""
    return Node(
        name=socket.gethostname(),
        cpus=limit_cpus(float(len(os.sched_getaffinity(0)))),
        memory_bytes=limit_memory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        gpus=query_gpus(),
    )


def make_nodes(count: int, *, gpus: int, gpu_memory_gib: float, cpus: float, memory_gib: float) -> tuple[Node, ...]:
    """Make up equal machines."""
    memory_bytes = int(gpu_memory_gib * GIB)
    return tuple(
        Node(
            name=f"node-{number}",
            cpus=cpus,
            memory_bytes=int(memory_gib * GIB),
            gpus=tuple(Gpu(index=index, memory_bytes=memory_bytes) for index in range(gpus)),
        )
        for number in range(count)
    )
