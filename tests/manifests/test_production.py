"""What overlays/prod adds, on hosts: Ray asks for its token, and a head that is killed comes back from Redis."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manifests.clusters import START_S, RayHosts, environment
from tests.manifests.hosts import Network, address_of, needs_root, network, wait_for
from tests.manifests.rendered import groups, needs_kubectl, of_kind, ray_cluster, render
from tests.manifests.test_three_hosts import ask

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    needs_root,
    needs_kubectl,
    pytest.mark.skipif(not shutil.which("redis-server"), reason="the head's state lies in Redis: install redis-server"),
    pytest.mark.timeout(1_500),
]

STORE = "next-head"
TOKEN, PASSWORD = "0123456789abcdef" * 4, "for-this-test-alone"

STATUS_OF = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def start_store(hosts: Network, folder: Path) -> None:
    """Start Redis as the StatefulSet has it, but for the places of its data and its password."""
    (store,) = of_kind(render("overlays/prod"), "StatefulSet")
    place_by_name = {"$(REDIS_PASSWORD)": PASSWORD, "/data": str(folder)}
    words = [place_by_name.get(word, word) for word in store["spec"]["template"]["spec"]["containers"][0]["args"]]
    folder.mkdir()
    command = " ".join(f"'{word}'" for word in ("redis-server", *words))
    hosts.start_node(STORE, command, files=folder, log=folder.parent / "redis.log", env=environment())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHosts]:
    resources = render("overlays/prod")
    auth, store = ray_cluster(resources)["authOptions"], ray_cluster(resources)["gcsFaultToleranceOptions"]
    # What KubeRay makes of the two.
    env = environment() | {"RAY_AUTH_MODE": auth["mode"], "RAY_AUTH_TOKEN": TOKEN}
    port = store["redisAddress"].split(":")[1]
    head = groups(resources)["head"]
    head["rayStartParams"]["redis-password"] = PASSWORD
    head["template"]["spec"]["containers"][0]["env"] += [
        {"name": "RAY_REDIS_ADDRESS", "value": f"{address_of(STORE)}:{port}"},
        {"name": "REDIS_PASSWORD", "value": PASSWORD},
        {"name": "RAY_external_storage_namespace", "value": "ensemble"},
    ]
    folder = tmp_path_factory.mktemp("hosts")
    with network(f"prod{os.getpid()}") as hosts:
        start_store(hosts, folder / "store")
        made = RayHosts(hosts, folder, resources, env=env)
        made.start()
        made.deploy_own()
        wait_for(lambda: all(map(made.is_serving, made.endpoints)), what="both workers serving", timeout_s=START_S)
        yield made


def test_every_worker_votes_on_a_cluster_that_asks_for_a_token(cluster: RayHosts) -> None:
    answers = [json.loads(ask(cluster, endpoint).stdout) for endpoint in cluster.endpoints]

    assert [one["answer"] for one in answers] == ["honey", "honey"]


def test_who_has_no_token_learns_nothing_from_the_head(cluster: RayHosts) -> None:
    url = f"{cluster.dashboard}/api/serve/applications/"

    done = cluster.hosts.run("client", sys.executable, "-c", STATUS_OF, url, env=environment())

    assert done.stdout.strip() == "401", done.stderr


def test_votes_go_on_without_the_head_which_comes_back_with_its_state(cluster: RayHosts) -> None:
    before = cluster.replicas()
    cluster.kill_head()

    without = [ask(cluster, endpoint) for endpoint in cluster.endpoints * 2]
    cluster.start_head()
    wait_for(lambda: is_back(cluster), what="the head with its state", timeout_s=START_S)

    assert [json.loads(one.stdout)["answer"] for one in without] == ["honey"] * 4, without
    assert cluster.replicas() == before
    assert all(json.loads(ask(cluster, endpoint).stdout)["answer"] == "honey" for endpoint in cluster.endpoints)


def is_back(cluster: RayHosts) -> bool:
    """Say whether the dashboard answers, and Serve on it knows the application."""
    try:
        return bool(cluster.application()["status"] == "RUNNING")
    except (AssertionError, KeyError, TypeError):
        return False
