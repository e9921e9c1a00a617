"""The Serve config and the spec of the RayService, deployed on a head and two workers, and asked from a fourth host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from ensemble.config import cache_dir
from tests.manifests.hosts import Network, address_of, needs_root, network, wait_for
from tests.manifests.rendered import ROOT, groups, needs_kubectl, ray_service, render, spec_text

pytestmark = [pytest.mark.ray, pytest.mark.slow, needs_root, needs_kubectl, pytest.mark.timeout(1_500)]

BIN = Path(sys.executable).parent
DASHBOARD = f"http://{address_of('head')}:8265"
WORKERS = tuple(f"{address_of(host)}:9000" for host in ("worker-1", "worker-2"))
BOTH = f"ipv4:{','.join(WORKERS)}"
"""A client that knows both: while one's router is replaced, the other answers."""
START_S = 600.0
"""Two models on each worker, on whatever machine this is."""
ASK_ON = """
import sys
from pathlib import Path
from ensemble.rpc.client import EnsembleClient
answered, over = 0, Path(sys.argv[2])
with EnsembleClient(sys.argv[1], timeout_s=60.0) as client:
    while not over.exists():
        decision = client.classify(f"Question {answered}?", ["yes", "no"])
        assert len(decision.ballots) + len(decision.abstentions) == 2, decision
        assert not any(one.reason == "error" for one in decision.abstentions), decision
        answered += 1
        Path(sys.argv[3]).write_text(str(answered))
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    hosts: Network
    folder: Path
    env: dict[str, str]
    resources: list[dict[str, Any]]

    def ensemble(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.hosts.run("client", str(BIN / "ensemble"), *arguments, env=self.env, timeout_s=180.0)

    def is_serving(self, endpoint: str) -> bool:
        return self.ensemble("health", "--endpoint", endpoint, "--timeout", "20").returncode == 0

    def deploy(self, config: str) -> None:
        path = self.folder / "deployed.yaml"
        path.write_text(config, encoding="utf-8")
        command = (str(BIN / "serve"), "deploy", str(path), "--address", DASHBOARD)
        done = self.hosts.run("client", *command, env=self.env, timeout_s=180.0)
        assert done.returncode == 0, done.stdout + done.stderr

    def application(self) -> Any:
        command = (str(BIN / "serve"), "status", "--address", DASHBOARD)
        done = self.hosts.run("client", *command, env=self.env, timeout_s=180.0)
        assert done.returncode == 0, done.stdout + done.stderr
        return yaml.safe_load(done.stdout)["applications"]["ensemble"]

    def replicas(self) -> dict[str, set[str]]:
        done = self.ensemble("status", "--endpoint", BOTH, "--timeout", "60", "--json")
        assert done.returncode == 0, done.stderr
        members = json.loads(done.stdout)["ensembles"][0]["members"]
        return {one["member"]: {replica["replica_id"] for replica in one["replicas"]} for one in members}


def start_node(cluster: Cluster, host: str, group: dict[str, Any]) -> None:
    """Start Ray as KubeRay does: with the group's own parameters and environment."""
    container = group["template"]["spec"]["containers"][0]
    env = cluster.env | {one["name"]: one["value"] for one in container["env"]}
    options = [f"--{key}={value}" for key, value in group["rayStartParams"].items()]
    where = ["--head", "--port=6379"] if host == "head" else [f"--address={address_of('head')}:6379"]
    ray = " ".join([str(BIN / "ray"), "start", "--block", f"--node-ip-address={address_of(host)}", *where, *options])
    files = cluster.folder / host
    (files / "ensemble").mkdir(parents=True)
    (files / "ensemble" / "spec.yaml").write_text(spec_text(cluster.resources), encoding="utf-8")
    # `ray start` gives up after a fixed time when the machine is busy; this host's processes are all that it sees.
    script = f"for try in 1 2 3 4 5; do {ray} && break; {BIN / 'ray'} stop --force; sleep 2; done"
    cluster.hosts.start_node(host, script, files=files, log=cluster.folder / f"{host}.log", env=env)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    env = {
        "PATH": f"{BIN}:{os.environ['PATH']}",  # noqa: TID251 - handed on to the hosts
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "ENSEMBLE_CACHE_DIR": str(cache_dir()),
        "OMP_NUM_THREADS": "1",
    }
    resources = render("base")
    with network(f"three{os.getpid()}") as hosts:
        cluster = Cluster(hosts, tmp_path_factory.mktemp("hosts"), env, resources)
        parts = groups(resources)
        start_node(cluster, "head", parts["head"])
        for host in ("worker-1", "worker-2"):
            start_node(cluster, host, parts["workers"])
        wait_for(lambda: _num_nodes(cluster) == 3, what="three nodes", timeout_s=START_S)
        cluster.deploy(ray_service(resources)["spec"]["serveConfigV2"])
        for endpoint in WORKERS:
            wait_for(partial(cluster.is_serving, endpoint), what=f"{endpoint} serves", timeout_s=START_S)
        yield cluster


def _num_nodes(cluster: Cluster) -> int:
    command = (str(BIN / "ray"), "list", "nodes", "--address", DASHBOARD, "--format", "json", "--filter", "state=ALIVE")
    done = cluster.hosts.run("client", *command, env=cluster.env, timeout_s=120.0)
    return len(json.loads(done.stdout)) if done.stdout.startswith("[") else 0


def test_what_is_deployed_are_the_very_files(cluster: Cluster) -> None:
    deployed = (cluster.folder / "deployed.yaml").read_bytes()
    specs = [
        (cluster.folder / host / "ensemble" / "spec.yaml").read_bytes() for host in ("head", "worker-1", "worker-2")
    ]

    assert deployed == (ROOT / "deploy/serve-config.yaml").read_bytes()
    assert specs == [(ROOT / "deploy/specs/three-nodes.yaml").read_bytes()] * 3


@pytest.mark.parametrize("endpoint", WORKERS)
def test_every_worker_answers_a_client_on_another_host(cluster: Cluster, endpoint: str) -> None:
    question = ("classify", "What do bees make?", "honey", "milk", "--all", "--json", "--timeout", "120")
    answers: list[Any] = []

    def is_whole() -> bool:
        done = cluster.ensemble(*question, "--endpoint", endpoint)
        sys.stdout.write(done.stdout + done.stderr)
        answers.append(json.loads(done.stdout) if done.returncode == 0 else {"ballots": []})
        return len(answers[-1]["ballots"]) == 2

    # Health says SERVING before a machine that is busy has read the model's pages for the first time.
    wait_for(is_whole, what=f"{endpoint} hears both members", timeout_s=240.0)
    assert {ballot["member"] for ballot in answers[-1]["ballots"]} == {"likely", "telling"}
    assert answers[-1]["answer"] == "honey"


def test_the_head_has_no_router(cluster: Cluster) -> None:
    assert not cluster.is_serving(f"{address_of('head')}:9000")


def test_a_worker_exports_our_metrics(cluster: Cluster) -> None:
    url = f"http://{address_of('worker-1')}:8080/metrics"
    script = f"import urllib.request as r; print(r.urlopen('{url}', timeout=30).read().decode())"

    def is_there() -> bool:
        done = cluster.hosts.run("client", sys.executable, "-c", script, env=cluster.env)
        return "ray_ensemble_requests_total" in done.stdout

    assert (
        cluster.ensemble("classify", "Is it so?", "yes", "no", "--endpoint", WORKERS[0], "--timeout", "120").returncode
        == 0
    )
    wait_for(is_there, what="our counter", timeout_s=120.0)


def test_a_changed_config_is_taken_in_place_without_a_failed_request(cluster: Cluster) -> None:
    before = cluster.replicas()
    spec = yaml.safe_load(spec_text(cluster.resources))
    spec["serving"]["revision"] = "2"
    config = yaml.safe_load(ray_service(cluster.resources)["spec"]["serveConfigV2"])
    config["applications"][0]["args"]["spec"] = spec
    over, count = cluster.folder / "over", cluster.folder / "count"
    command = cluster.hosts.command("client", sys.executable, "-c", ASK_ON, BOTH, str(over), str(count))
    with subprocess.Popen(command, env=cluster.env, stderr=subprocess.PIPE, text=True) as asking:  # noqa: S603
        try:
            wait_for(count.exists, what="a first answer", timeout_s=180.0)
            cluster.deploy(yaml.safe_dump(config))
            wait_for(lambda: _is_replaced(cluster, before), what="all replicas replaced", timeout_s=START_S)
        finally:
            over.touch()
        _, problems = asking.communicate(timeout=180.0)

    assert asking.returncode == 0, problems
    assert int(count.read_text()) > 0


def _is_replaced(cluster: Cluster, before: dict[str, set[str]]) -> bool:
    now = cluster.replicas()
    has_changed = all(now[member] and not now[member] & ids for member, ids in before.items())
    return has_changed and cluster.application()["status"] == "RUNNING"
