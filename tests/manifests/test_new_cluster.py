"""A changed spec as KubeRay's NewCluster takes it: a second cluster beside the first, one address in front of both."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ensemble.cli.entry import app
from tests.manifests.clusters import PORT, START_S, RayHosts
from tests.manifests.hosts import SERVICE, Network, address_of, needs_root, network, wait_for
from tests.manifests.rendered import (
    K8S,
    ROOT,
    Resources,
    needs_kubectl,
    ray_cluster,
    ray_service,
    render_folder,
)

SPEC = ROOT / "deploy/specs/three-nodes.yaml"
ASK_ON = """
import sys
import time
from pathlib import Path
from ensemble.errors import EndpointError, QuorumError, VotingUnavailableError
from ensemble.rpc.client import EnsembleClient
with EnsembleClient(sys.argv[1], timeout_s=60.0) as client, open(sys.argv[3], "w", buffering=1) as log:
    while not Path(sys.argv[2]).exists():
        try:
            decision = client.classify("What do bees make?", ["honey", "milk"])
        except (EndpointError, QuorumError, VotingUnavailableError):
            print("retry", file=log)
            time.sleep(0.2)
            continue
        assert decision.ballots, decision
        print(decision.strategy, file=log)
"""


def one_worker(**ensemble: str) -> str:
    """Give the three nodes' spec for one worker, with a change to its ensemble."""
    spec: dict[str, Any] = yaml.safe_load(SPEC.read_text(encoding="utf-8"))
    for part in (spec["router"], spec["voting"], *spec["members"]):
        part["replicas"] = 1
    spec["ensembles"][0] |= ensemble
    return yaml.safe_dump(spec)


def rendered(folder: Path, spec: str) -> Resources:
    """Render a spec as an operator would."""
    folder.mkdir()
    (folder / "spec.yaml").write_text(spec, encoding="utf-8")
    arguments = ["render", "k8s", str(folder / "spec.yaml"), "--out", str(folder / "overlay"), "--base"]
    outcome = CliRunner().invoke(app, [*arguments, str(K8S / "base")])
    assert outcome.exit_code == 0, outcome.output
    return render_folder(folder / "overlay")


@needs_kubectl
def test_a_changed_spec_file_is_another_cluster_and_the_same_serve_config(tmp_path: Path) -> None:
    before = rendered(tmp_path / "before", one_worker())
    after = rendered(tmp_path / "after", one_worker(classify_strategy="soft_vote"))

    assert ray_cluster(before) != ray_cluster(after)
    assert ray_service(before)["spec"]["serveConfigV2"] == ray_service(after)["spec"]["serveConfigV2"]
    assert ray_service(before)["spec"]["upgradeStrategy"] == {"type": "NewCluster"}


@pytest.fixture
def hosts() -> Iterator[Network]:
    with network(f"next{os.getpid()}") as made:
        yield made


@pytest.mark.ray
@pytest.mark.slow
@needs_root
@needs_kubectl
@pytest.mark.timeout(1_800)
def test_a_client_that_asks_again_gets_answers_while_the_service_turns_to_another_cluster(
    hosts: Network, tmp_path: Path
) -> None:
    before = rendered(tmp_path / "before", one_worker())
    after = rendered(tmp_path / "after", one_worker(classify_strategy="soft_vote"))
    old = RayHosts(hosts, tmp_path, before, workers=("worker-1",))
    new = RayHosts(hosts, tmp_path, after, head="next-head", workers=("next-worker",))
    over, log = tmp_path / "over", tmp_path / "answered"
    bring_up(old)
    hosts.lead("client", address_of("worker-1"))
    command = hosts.command("client", sys.executable, "-c", ASK_ON, f"{SERVICE}:{PORT}", str(over), str(log))
    with subprocess.Popen(command, env=old.env, stderr=subprocess.PIPE, text=True) as asking:  # noqa: S603
        try:
            wait_for(lambda: bool(answered(log)), what="a first answer", timeout_s=180.0)
            bring_up(new)
            hosts.lead("client", address_of("next-worker"))
            old.terminate()
            wait_for(lambda: "soft_vote" in answered(log), what="an answer of the new cluster", timeout_s=180.0)
        finally:
            over.touch()
        _, problems = asking.communicate(timeout=180.0)

    outcomes = answered(log)
    counts = ", ".join(f"{outcomes.count(one)} {one}" for one in ("log_pool", "retry", "soft_vote"))
    sys.stdout.write(f"{counts}\n")
    assert asking.returncode == 0, problems
    assert {"log_pool", "soft_vote"} <= set(outcomes) <= {"log_pool", "retry", "soft_vote"}
    # The old cluster's, perhaps some that its end cut off, then the new one's.
    assert outcomes == sorted(outcomes)


def bring_up(cluster: RayHosts) -> None:
    cluster.start()
    cluster.deploy_own()
    (endpoint,) = cluster.endpoints
    wait_for(partial(cluster.is_serving, endpoint), what=f"{endpoint} serves", timeout_s=START_S)


def answered(log: Path) -> list[str]:
    """Give the strategies by which requests were decided so far, and "retry" for those that were not."""
    return log.read_text(encoding="utf-8").split() if log.exists() else []
