"""Several hosts on this machine: a network namespace each, with files, processes and a name of their own; needs root.

switch: a bridge, 10.77.0.254
head, worker-1, worker-2, client, and next-head, next-worker for a second cluster: 10.77.0.1 and up, each with one wire
    to the switch
service: 10.77.0.200, which nobody has; a host that asks there is led elsewhere
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

NAMES = ("head", "worker-1", "worker-2", "client", "next-head", "next-worker")
GATEWAY = "10.77.0.254"
SERVICE = "10.77.0.200"
COMMAND_S = 60.0
ENSEMBLE_DIR = Path("/etc/ensemble")


@functools.cache
def obstacle() -> str:
    """Say what keeps hosts from being made here, by making one; nothing, if they can be.

    A container's root may lack the capabilities, its kernel a part of the network.
    """
    if missing := [tool for tool in ("ip", "iptables", "unshare") if not shutil.which(tool)]:
        return f"there is no {', '.join(missing)}"
    name = f"probe{os.getpid()}"
    inside = ("ip", "netns", "exec", name)
    steps = (
        ("ip", "netns", "add", name),
        ("ip", "-n", name, "link", "add", "bridge", "type", "bridge"),
        ("ip", "-n", name, "link", "add", "wire", "type", "veth", "peer", "name", "other"),
        (*inside, "unshare", "-m", "-u", "-p", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"),  # noqa: S108
        (*inside, "iptables", "-t", "nat", "-L", "OUTPUT"),
    )
    try:
        return next(filter(None, map(_failure, steps)), "")
    finally:
        _failure(("ip", "netns", "delete", name))


def _failure(command: tuple[str, ...]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)  # noqa: S603
    return f"{' '.join(command)}: {done.stderr.strip() or done.returncode}" if done.returncode else ""


needs_root = pytest.mark.skipif(bool(obstacle()), reason=f"hosts are network namespaces, and {obstacle()}")


def address_of(host: str) -> str:
    """Give a host's address."""
    return f"10.77.0.{NAMES.index(host) + 1}"


@dataclass(slots=True)
class Network:
    """The namespaces of one run; ``prefix`` keeps them apart from others'."""

    prefix: str
    process_by_host: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def command(self, host: str, *command: str) -> list[str]:
        """Give the command line that runs there."""
        return ["ip", "netns", "exec", f"{self.prefix}-{host}", *command]

    def run(
        self, host: str, *command: str, env: Mapping[str, str] | None = None, timeout_s: float = COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, with that host's network alone."""
        whole = self.command(host, *command)
        return subprocess.run(  # noqa: S603
            whole, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def start_node(self, host: str, script: str, *, files: Path, log: Path, env: Mapping[str, str]) -> None:
        """Start a script as a host of its own; ``files`` has its /tmp/ray, its HOME and its /etc/ensemble."""
        for name in ("ray", "home", "ensemble"):
            (files / name).mkdir(parents=True, exist_ok=True)
        # Ray looks its host's name up; nobody answers for names here, and each question costs seconds.
        known = "".join(f"{address_of(name)} {name}\n" for name in NAMES)
        (files / "hosts").write_text(f"127.0.0.1 localhost\n{known}", encoding="utf-8")
        (files / "resolv.conf").write_text("", encoding="utf-8")
        lines = [
            "set -e",
            "mount --make-rprivate /",
            "mount -t tmpfs -o size=300m tmpfs /dev/shm",
            f"mkdir -p /tmp/ray && mount --bind {files / 'ray'} /tmp/ray",
            f"mount --bind {files / 'ensemble'} {ENSEMBLE_DIR}",
            *(f"mount --bind {files / name} /etc/{name}" for name in ("hosts", "resolv.conf")),
            f"hostname {host}",
            f"export HOME={files / 'home'}",
            script,
        ]
        isolated = ("unshare", "-m", "-u", "-p", "--fork", "--kill-child", "--mount-proc", "bash", "-c")
        with log.open("wb") as stream:
            process = subprocess.Popen(  # noqa: S603
                self.command(host, *isolated, "\n".join(lines)),
                env=dict(env),
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.process_by_host[host] = process

    def terminate(self, host: str, name: str) -> None:
        """Send SIGTERM to the processes of a host whose command line has this in it."""
        for process in psutil.Process(self.process_by_host[host].pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if words and name in " ".join(words) and "bash" not in Path(words[0]).name:
                    process.terminate()

    def lead(self, host: str, to: str) -> None:
        """Lead a host's new connections to SERVICE to another address, as a service of Kubernetes does."""
        nat = ("iptables", "-t", "nat")
        where = ("-d", SERVICE, "-p", "tcp", "-j", "DNAT", "--to-destination", to)
        for command in ((*nat, "-F", "OUTPUT"), (*nat, "-A", "OUTPUT", *where)):
            done = self.run(host, *command)
            assert done.returncode == 0, done.stderr

    def end(self) -> None:
        """End every node that was started here; the death of a node's first process ends all others of it."""
        for process in self.process_by_host.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=COMMAND_S)


@contextmanager
def network(prefix: str) -> Iterator[Network]:
    """Wire the hosts up; end their nodes and take everything down at the end."""
    made = Network(prefix)
    switch = f"{prefix}-switch"
    with ExitStack() as stack:
        was_there = ENSEMBLE_DIR.is_dir()
        ENSEMBLE_DIR.mkdir(exist_ok=True)
        if not was_there:
            stack.callback(ENSEMBLE_DIR.rmdir)
        _ip("netns", "add", switch)
        stack.callback(_ip, "netns", "delete", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "address", "add", f"{GATEWAY}/24", "dev", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for host in NAMES:
            _add_host(stack, prefix, switch, host)
        stack.callback(made.end)
        yield made


def _add_host(stack: ExitStack, prefix: str, switch: str, host: str) -> None:
    name = f"{prefix}-{host}"
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)
    _ip("link", "add", "wire", "netns", name, "type", "veth", "peer", "name", host, "netns", switch)
    _ip("-n", switch, "link", "set", host, "master", "bridge", "up")
    _ip("-n", name, "address", "add", f"{address_of(host)}/24", "dev", "wire")
    for link in ("lo", "wire"):
        _ip("-n", name, "link", "set", link, "up")
    # Without a default route Ray takes 127.0.0.1 for its own address.
    _ip("-n", name, "route", "add", "default", "via", GATEWAY)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_S, check=False)  # noqa: S603, S607
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def wait_for(is_so: Callable[[], bool], *, what: str, timeout_s: float, pause_s: float = 2.0) -> None:
    """Wait until it is so, at most ``timeout_s``."""
    until_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(pause_s)
