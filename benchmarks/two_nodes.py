"""A Ray cluster of two raylets on this machine, each with ports and an address of its own, to be killed at will."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ensemble.environment import set_ray_environment

START_TRIES = 5
"""Ray gives a node 30 seconds to start, which a busy machine may exceed."""
UP_TIMEOUT_S = 120.0
POLL_S = 0.2
NODE_CPUS = 2
HOSTS = ("127.0.0.1", "127.0.0.2")
BIN = Path(sys.executable).parent
_REPLICA = re.compile(r"ServeReplica:[^:]+:(\S+)")
"""What Ray calls a replica's process."""


def free_ports(count: int) -> list[int]:
    """Find ports that nobody holds now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def kill_family(process: psutil.Process) -> None:
    """Give SIGKILL to a process and to whatever it started."""
    try:
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=UP_TIMEOUT_S)


def command_of(process: psutil.Process) -> list[str]:
    """Read a process's command line; nothing when it has ended."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


@dataclass(slots=True, kw_only=True)
class TwoNodes:
    """A cluster of two raylets with a private folder; a new head knows nothing of the one before."""

    folder: Path
    nodes: dict[str, psutil.Process] = field(default_factory=dict)
    port: int = 0
    dashboard: str = ""

    def start(self) -> None:
        """Start both nodes; what is left of an earlier cluster ends."""
        self.end()
        self.port, dashboard_port = free_ports(2)
        self.dashboard = f"http://{HOSTS[0]}:{dashboard_port}"
        self._start_node(
            "head",
            HOSTS[0],
            *("--head", f"--port={self.port}", "--include-dashboard=true"),
            *(f"--dashboard-host={HOSTS[0]}", f"--dashboard-port={dashboard_port}"),
        )
        self.start_worker()

    def start_worker(self) -> None:
        """Start the second node."""
        self._start_node("worker", HOSTS[1], f"--address={HOSTS[0]}:{self.port}")

    def kill(self, node: str) -> None:
        """Kill a node with everything on it; its raylet's children go, too."""
        kill_family(self.nodes.pop(node))

    def end(self) -> None:
        """Kill both."""
        for node in tuple(self.nodes):
            self.kill(node)

    def replicas(self, node: str) -> list[str]:
        """Name the deployments whose replicas run on a node."""
        titles = [" ".join(command_of(process)) for process in self.nodes[node].children(recursive=True)]
        return sorted(found[1] for title in titles if (found := _REPLICA.search(title)))

    def driver(self, output: Path) -> psutil.Process | None:
        """Find the job's process, which Ray's job manager started on the head."""
        for process in self.nodes["head"].children(recursive=True):
            command = command_of(process)
            if str(output) in command and Path(command[0]).name.startswith("python"):
                return process
        return None

    def _start_node(self, name: str, host: str, *options: str) -> None:
        agent_port, metrics_port = free_ports(2)
        command = [
            str(BIN / "ray"),
            *("start", "--block", f"--node-ip-address={host}", f"--num-cpus={NODE_CPUS}", "--disable-usage-stats"),
            *(f"--dashboard-agent-listen-port={agent_port}", f"--metrics-export-port={metrics_port}"),
            *("--object-store-memory=104857600", *options),
        ]
        for attempt in range(START_TRIES):
            log = self.folder / f"{name}.log"
            with log.open("ab") as stream:
                started = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)  # noqa: S603
            process = psutil.Process(started.pid)
            if self._is_up(started, log):
                self.nodes[name] = process
                return
            kill_family(process)
            print(f"{name} did not start, try {attempt + 1}", flush=True)
        raise SystemExit(f"{name} does not start: {log.read_text('utf-8')}")

    def _is_up(self, started: subprocess.Popen[bytes], log: Path) -> bool:
        until_s = time.monotonic() + UP_TIMEOUT_S
        size_before = log.stat().st_size
        while time.monotonic() < until_s and started.poll() is None:
            if b"Ray runtime started" in log.read_bytes()[max(0, size_before - 1) :]:
                return True
            time.sleep(POLL_S)
        return False


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Run a cluster and leave nothing of it behind."""
    set_ray_environment()
    # Ray's sockets lie in it, and their paths may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ens-", dir="/tmp"))
    # Of the nodes, which are started as commands.
    os.environ["RAY_TMPDIR"] = str(folder)  # noqa: TID251
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"  # noqa: TID251
    cluster = TwoNodes(folder=folder)
    try:
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)
