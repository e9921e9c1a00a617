"""A batch that reads and writes at URLs reaches their stores, once that is allowed; nobody else does."""

from __future__ import annotations

import kubernetes_validate
import pytest

from tests.manifests.rendered import K8S, ROOT, Resource, load_file, pods
from tests.manifests.schemas import VERSIONS

HTTPS = {"port": 443, "protocol": "TCP"}


def policy() -> Resource:
    (found,) = load_file(ROOT / "deploy/jobs/allow-storage.yaml")
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_valid(version: str) -> None:
    kubernetes_validate.validate(policy(), version, strict=True)


def test_it_is_for_the_head_of_a_batch_alone() -> None:
    wanted = policy()["spec"]["podSelector"]["matchLabels"].items()
    batch = pods(load_file(ROOT / "deploy/jobs/rayjob.yaml"))
    serving = pods(load_file(K8S / "base/ray-service.yaml"))

    chosen = [name for name, pod in (*batch.items(), *serving.items()) if wanted <= pod["metadata"]["labels"].items()]

    assert len(batch) + len(serving) == 5
    assert chosen == ["ray head"]
    assert wanted <= batch["ray head"]["metadata"]["labels"].items()


def test_it_lets_stores_be_reached_and_nobody_in() -> None:
    spec = policy()["spec"]

    assert spec["policyTypes"] == ["Egress"]
    assert [rule["ports"] for rule in spec["egress"]] == [[HTTPS], [{"port": 80, "protocol": "TCP"}]]
    assert {"ipBlock": {"cidr": "0.0.0.0/0"}} in spec["egress"][0]["to"]
    assert spec["egress"][1]["to"] == [{"ipBlock": {"cidr": "169.254.169.254/32"}}]
