"""Ray clusters on hosts of their own, started as KubeRay starts the pods of a RayService."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ensemble.environment import cache_dir
from tests.manifests.hosts import Network, address_of, wait_for
from tests.manifests.rendered import ROOT, Resource, Resources, groups, ray_service, spec_text

BIN = Path(sys.executable).parent
START_S = 600.0
"""Two models on each worker, on whatever machine this is."""
COMMAND_S = 180.0
PORT = 9000


def environment() -> dict[str, str]:
    """Give what every host's processes read."""
    return {
        "PATH": f"{BIN}:{os.environ['PATH']}",  # noqa: TID251 - handed on to the hosts
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "ENSEMBLE_CACHE_DIR": str(cache_dir()),
        "OMP_NUM_THREADS": "1",
    }


@dataclass(frozen=True, slots=True)
class RayHosts:
    """One cluster: a head, its workers, and the manifests that they come from; asked from the host ``client``."""

    hosts: Network
    folder: Path
    resources: Resources
    head: str = "head"
    workers: tuple[str, ...] = ("worker-1", "worker-2")
    env: dict[str, str] = field(default_factory=environment)

    @property
    def dashboard(self) -> str:
        return f"http://{address_of(self.head)}:8265"

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(f"{address_of(host)}:{PORT}" for host in self.workers)

    @property
    def together(self) -> str:
        """Name all endpoints: while one's router is replaced, another answers."""
        return f"ipv4:{','.join(self.endpoints)}"

    def ensemble(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.hosts.run("client", str(BIN / "ensemble"), *arguments, env=self.env, timeout_s=COMMAND_S)

    def is_serving(self, endpoint: str) -> bool:
        return self.ensemble("health", "--endpoint", endpoint, "--timeout", "20").returncode == 0

    def start(self) -> None:
        """Start the nodes, with the groups' own parameters and environment."""
        for host in (self.head, *self.workers):
            self._start_node(host, groups(self.resources)["head" if host == self.head else "workers"])
        wait_for(lambda: self._num_nodes() == 1 + len(self.workers), what="all nodes", timeout_s=START_S)

    def deploy(self, config: str) -> None:
        """Hand a Serve config to the head, as KubeRay does."""
        path = self.folder / f"deployed-{self.head}.yaml"
        path.write_text(config, encoding="utf-8")
        done = self._serve("deploy", str(path))
        assert done.returncode == 0, done.stdout + done.stderr

    def deploy_own(self) -> None:
        """Hand over the RayService's own Serve config."""
        self.deploy(ray_service(self.resources)["spec"]["serveConfigV2"])

    def application(self) -> Any:
        done = self._serve("status")
        assert done.returncode == 0, done.stdout + done.stderr
        return yaml.safe_load(done.stdout)["applications"]["ensemble"]

    def replicas(self) -> dict[str, set[str]]:
        """Give the members' replicas, by member."""
        done = self.ensemble("status", "--endpoint", self.together, "--timeout", "60", "--json")
        assert done.returncode == 0, done.stderr
        members = json.loads(done.stdout)["ensembles"][0]["members"]
        return {one["member"]: {replica["replica_id"] for replica in one["replicas"]} for one in members}

    def terminate(self) -> None:
        """End the nodes as a deleted cluster's pods are ended: all are told at once, and have their grace period."""
        for host in (self.head, *self.workers):
            (self.folder / host / "over").touch()
            self.hosts.terminate(host, "ray start")

    def kill_head(self) -> None:
        """End the head at once, with all that it had on its disk."""
        process = self.hosts.process_by_host[self.head]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=COMMAND_S)
        shutil.rmtree(self.folder / self.head)

    def start_head(self) -> None:
        """Start a head at the address of the one before."""
        self._start_node(self.head, groups(self.resources)["head"])

    def _serve(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = (str(BIN / "serve"), *arguments, "--address", self.dashboard)
        return self.hosts.run("client", *command, env=self.env, timeout_s=COMMAND_S)

    def _start_node(self, host: str, group: Resource) -> None:
        container = group["template"]["spec"]["containers"][0]
        env = self.env | {one["name"]: one["value"] for one in container["env"]}
        options = [f"--{key}={value}" for key, value in group["rayStartParams"].items()]
        where = ["--head", "--port=6379"] if host == self.head else [f"--address={address_of(self.head)}:6379"]
        ray = " ".join(
            [str(BIN / "ray"), "start", "--block", f"--node-ip-address={address_of(host)}", *where, *options]
        )
        files = self.folder / host
        (files / "ensemble").mkdir(parents=True)
        (files / "ensemble" / "spec.yaml").write_text(spec_text(self.resources), encoding="utf-8")
        # `ray start` gives up after a fixed time when the machine is busy; this host's processes are all that it sees.
        script = f"until {ray} || [ -e {files / 'over'} ]; do {BIN / 'ray'} stop --force; sleep 2; done"
        self.hosts.start_node(host, script, files=files, log=self.folder / f"{host}.log", env=env)

    def _num_nodes(self) -> int:
        alive = ("list", "nodes", "--address", self.dashboard, "--format", "json", "--filter", "state=ALIVE")
        try:
            done = self.hosts.run("client", str(BIN / "ray"), *alive, env=self.env, timeout_s=120.0)
        except subprocess.TimeoutExpired:
            return 0
        return len(json.loads(done.stdout)) if done.stdout.startswith("[") else 0
