"""The Serve config and the spec of the RayService, deployed on a head and two workers, and asked from a fourth host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import yaml

from tests.manifests.clusters import START_S, RayHosts
from tests.manifests.hosts import address_of, needs_root, network, wait_for
from tests.manifests.rendered import ROOT, needs_kubectl, ray_service, render, spec_text

pytestmark = [pytest.mark.ray, pytest.mark.slow, needs_root, needs_kubectl, pytest.mark.timeout(1_500)]

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


FIRST_ON = """
import sys, time
from ensemble.errors import EndpointError
from ensemble.router.request import QuorumOverrides, VoteOptions
from ensemble.rpc.client import EnsembleClient
from ensemble.rpc.health_client import check_health
from ensemble.voting.decision import Decision
until_s = time.monotonic() + float(sys.argv[2])
while True:
    try:
        if check_health(sys.argv[1], timeout_s=5.0) == "SERVING":
            break
    except EndpointError:
        assert time.monotonic() < until_s, "it never served"
    time.sleep(0.02)
options = VoteOptions(quorum=QuorumOverrides(stop_early=False))
with EnsembleClient(sys.argv[1], timeout_s=60.0) as client:
    for event in client.stream_classify("What do bees make?", ["honey", "milk"], options=options):
        if not isinstance(event, Decision):
            print(event.member, getattr(event, "detail", ""), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Served:
    """The cluster, and what each worker answered to the request that was there the moment its health said SERVING."""

    cluster: RayHosts
    first_by_endpoint: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with network(f"three{os.getpid()}") as hosts:
        cluster = RayHosts(hosts, tmp_path_factory.mktemp("hosts"), render("base"))
        cluster.start()
        with ThreadPoolExecutor() as pool:
            firsts = {endpoint: pool.submit(first_answer, cluster, endpoint) for endpoint in cluster.endpoints}
            cluster.deploy_own()
            yield Served(cluster, {endpoint: first.result() for endpoint, first in firsts.items()})


def first_answer(cluster: RayHosts, endpoint: str) -> str:
    command = (sys.executable, "-c", FIRST_ON, endpoint, str(START_S))
    done = cluster.hosts.run("client", *command, env=cluster.env, timeout_s=START_S + 60.0)
    return "\n".join(sorted(done.stdout.split("\n"))).strip()


@pytest.fixture
def cluster(served: Served) -> RayHosts:
    return served.cluster


def ask(cluster: RayHosts, endpoint: str) -> subprocess.CompletedProcess[str]:
    question = ("classify", "What do bees make?", "honey", "milk", "--all", "--json", "--timeout", "60")
    return cluster.ensemble(*question, "--endpoint", endpoint)


def test_what_is_deployed_are_the_very_files(cluster: RayHosts) -> None:
    deployed = (cluster.folder / "deployed-head.yaml").read_bytes()
    specs = [
        (cluster.folder / host / "ensemble" / "spec.yaml").read_bytes() for host in ("head", "worker-1", "worker-2")
    ]

    assert deployed == (ROOT / "deploy/serve-config.yaml").read_bytes()
    assert specs == [(ROOT / "deploy/specs/three-nodes.yaml").read_bytes()] * 3


def test_the_first_request_after_serving_hears_every_member(served: Served) -> None:
    assert list(served.first_by_endpoint.values()) == ["likely \ntelling"] * 2


@pytest.mark.parametrize("worker", [0, 1])
def test_every_worker_answers_a_client_on_another_host(cluster: RayHosts, worker: int) -> None:
    done = ask(cluster, cluster.endpoints[worker])

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"] == "honey"


def test_the_head_has_no_router(cluster: RayHosts) -> None:
    assert not cluster.is_serving(f"{address_of('head')}:9000")


def test_a_worker_exports_our_metrics(cluster: RayHosts) -> None:
    url = f"http://{address_of('worker-1')}:8080/metrics"
    script = f"import urllib.request as r; print(r.urlopen('{url}', timeout=30).read().decode())"

    def is_there() -> bool:
        done = cluster.hosts.run("client", sys.executable, "-c", script, env=cluster.env)
        return "ray_ensemble_requests_total" in done.stdout

    assert ask(cluster, cluster.endpoints[0]).returncode == 0
    wait_for(is_there, what="our counter", timeout_s=120.0)


def test_a_changed_config_is_taken_in_place_without_a_failed_request(cluster: RayHosts) -> None:
    before = cluster.replicas()
    spec = yaml.safe_load(spec_text(cluster.resources))
    spec["serving"]["revision"] = "2"
    config = yaml.safe_load(ray_service(cluster.resources)["spec"]["serveConfigV2"])
    config["applications"][0]["args"]["spec"] = spec
    over, count = cluster.folder / "over", cluster.folder / "count"
    command = cluster.hosts.command("client", sys.executable, "-c", ASK_ON, cluster.together, str(over), str(count))
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


def _is_replaced(cluster: RayHosts, before: dict[str, set[str]]) -> bool:
    now = cluster.replicas()
    has_changed = all(now[member] and not now[member] & ids for member, ids in before.items())
    return has_changed and cluster.application()["status"] == "RUNNING"
