"""The image as a container: nobody's root, nothing to write to, no capability, asked over the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.hosts import Network, address_of, needs_root, network, wait_for
from tests.manifests.rendered import ROOT

ROOTFS = os.environ.get("ENSEMBLE_IMAGE_ROOTFS", "")  # noqa: TID251 - prove_image.sh sets it
CONFIG = os.environ.get("ENSEMBLE_IMAGE_CONFIG", "")  # noqa: TID251
HOST = "worker-1"
TRIES = 8
ENDPOINT = f"{address_of(HOST)}:9000"
FILES = {"/etc/ensemble/spec.yaml": "spec.yaml", "/etc/hosts": "hosts", "/etc/resolv.conf": "resolv.conf"}
BIN = Path(sys.executable).parent
WRITABLE = {"/tmp": "2g", "/home/ensemble": "256m", "/var/cache/ensemble": "4g", "/dev/shm": "512m"}  # noqa: S108

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_200),
    needs_root,
    pytest.mark.skipif(
        not ROOTFS or not shutil.which("runc"), reason="tests/manifests/prove_image.sh builds the image and runs this"
    ),
]


@dataclass(frozen=True, slots=True)
class Container:
    hosts: Network
    name: str
    folder: Path

    def execute(self, *command: str, timeout_s: float = 180.0) -> subprocess.CompletedProcess[str]:
        whole = ["runc", "exec", self.name, *command]
        return subprocess.run(whole, capture_output=True, text=True, timeout=timeout_s, check=False)  # noqa: S603

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{BIN}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        return self.hosts.run("client", str(BIN / "ensemble"), *arguments, env=env, timeout_s=180.0)


def image_config() -> Any:
    """Read what the image says of itself."""
    return json.loads(Path(CONFIG).read_text(encoding="utf-8"))["Docker"]["config"]


def bundle(network_name: str, folder: Path) -> dict[str, Any]:
    """Make the runtime's configuration; environment and entry point are the image's own."""
    return {
        "ociVersion": "1.0.2",
        "root": {"path": ROOTFS, "readonly": True},
        "hostname": HOST,
        "process": process(),
        "mounts": [*mounts(), *(mount(path, str(folder / name), "bind", "ro") for path, name in FILES.items())],
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("pid", "mount", "ipc", "uts")),
                {"type": "network", "path": f"/var/run/netns/{network_name}"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys"],
            "readonlyPaths": ["/proc/sys"],
        },
    }


def process() -> dict[str, Any]:
    image = image_config()
    nothing: dict[str, list[str]] = {
        kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
    }
    return {
        "user": {"uid": int(image["User"]), "gid": int(image["User"])},
        "args": [*image["Entrypoint"], "serve", "/etc/ensemble/spec.yaml"],
        "env": [*image["Env"], "HOME=/home/ensemble"],
        "cwd": image["WorkingDir"],
        "capabilities": nothing,
        "noNewPrivileges": True,
    }


def mounts() -> Iterator[dict[str, Any]]:
    yield {"destination": "/proc", "type": "proc", "source": "proc"}
    yield mount("/dev", "tmpfs", "nosuid", "mode=755")
    yield mount("/sys", "/sys", "rbind", "ro")
    for path, size in WRITABLE.items():
        # The user's own, as the guide has them: runc gives a mounted folder the mode of the image's.
        yield mount(path, "tmpfs", "nosuid", "nodev", "mode=1777", "uid=10001", f"size={size}")


def mount(destination: str, source: str, *options: str) -> dict[str, Any]:
    kind = "tmpfs" if source == "tmpfs" else "bind"
    return {"destination": destination, "type": kind, "source": source, "options": [*options]}


def one_host() -> dict[str, Any]:
    """Give the spec of the three nodes with one replica of everything: real members, from the image's own package."""
    spec: dict[str, Any] = yaml.safe_load((ROOT / "deploy/specs/three-nodes.yaml").read_text(encoding="utf-8"))
    for part in (spec["router"], spec["voting"], *spec["members"]):
        part["replicas"] = 1
    return spec


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    folder = tmp_path_factory.mktemp("container")
    (folder / "spec.yaml").write_text(yaml.safe_dump(one_host()), encoding="utf-8")
    # As a container's runtime writes it: Ray looks its own name up, and there is nobody else to ask.
    hosts_file = f"127.0.0.1 localhost\n{address_of(HOST)} {HOST}\n"
    (folder / "hosts").write_text(hosts_file, encoding="utf-8")
    (folder / "resolv.conf").write_text("", encoding="utf-8")
    name = f"image{os.getpid()}"
    with network(name) as hosts:
        config = bundle(f"{name}-{HOST}", folder)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        made = Container(hosts, name, folder)
        # Ray gives itself half a minute to start, whatever else the machine does.
        for attempt in range(TRIES):
            with running(made, attempt) as is_up:
                if is_up:
                    yield made
                    return
    raise AssertionError(f"it did not come up in {TRIES} tries")


@contextmanager
def running(container: Container, attempt: int) -> Iterator[bool]:
    """Run the container, say whether it serves, and end it."""
    log = container.folder / f"log-{attempt}"
    command = ["runc", "run", "--bundle", str(container.folder), container.name]
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:  # noqa: S603
        try:
            wait_for(lambda: process.poll() is not None or is_serving(container), what=command[-1], timeout_s=600.0)
            yield process.poll() is None
        finally:
            stop = ["runc", "kill", container.name, "TERM"]
            subprocess.run(stop, capture_output=True, timeout=60, check=False)  # noqa: S603
            process.wait(timeout=180)
            sys.stdout.write(log.read_text(encoding="utf-8"))


def is_serving(container: Container) -> bool:
    return container.ask("health", "--endpoint", ENDPOINT, "--timeout", "20").returncode == 0


def test_it_answers_a_client_in_another_namespace(container: Container) -> None:
    done = container.ask(
        *("classify", "What do bees make?", "honey", "milk", "--endpoint", ENDPOINT),
        *("--timeout", "120", "--json", "--all"),
    )

    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stderr
    decision = json.loads(done.stdout)
    assert {ballot["member"] for ballot in decision["ballots"]} == {"likely", "telling"}
    assert decision["answer"] == "honey"


def test_it_runs_as_nobody_in_particular_and_without_capabilities(container: Container) -> None:
    done = container.execute("cat", "/proc/1/status")

    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["10001"] * 4
    assert {status[key].strip("0") for key in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {""}
    assert status["NoNewPrivs"].strip() == "1"


def test_it_cannot_write_to_its_image(container: Container) -> None:
    done = container.execute("touch", "/opt/ensemble/written")

    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


def test_its_own_health_check_passes(container: Container) -> None:
    check = image_config()["Healthcheck"]["Test"]

    done = container.execute(*check[1:])

    assert check[0] == "CMD"
    assert (done.returncode, done.stdout.strip()) == (0, "SERVING")


@pytest.mark.parametrize("tool", ["bash", "wget", "grep", "ray", "serve", "sha256sum"])
def test_it_has_the_tools_that_the_manifests_need(container: Container, tool: str) -> None:
    assert container.execute("bash", "-c", f"command -v {tool}").returncode == 0
