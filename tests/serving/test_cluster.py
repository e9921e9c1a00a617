"""What is checked of a cluster, with Ray's answers made up."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray.exceptions import GetTimeoutError

from ensemble.app import check_port
from ensemble.errors import ConfigError
from ensemble.planning.machine import Gpu, Node
from ensemble.rpc.server import GrpcServer
from ensemble.serving import cluster
from ensemble.serving.cluster import application_secret, cluster_nodes, ray_cluster
from ensemble.serving.replica import ServerReplica
from ensemble.serving.replica_picker import ADDRESS_KEY

GIB = 2**30
LOOPBACK_6 = "::1"


def has_ipv6() -> bool:
    """Say whether this machine has IPv6's loopback."""
    try:
        with socket.create_server((LOOPBACK_6, 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def test_nodes_are_described_as_ray_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"Alive": True, "NodeID": "1", "NodeName": "a", "Resources": {"CPU": 4.0, "memory": 8.0 * GIB, "GPU": 2.0}}
    dead = {"Alive": False, "NodeID": "2", "NodeName": "b", "Resources": {"CPU": 400.0, "memory": 800.0 * GIB}}
    monkeypatch.setattr(ray, "nodes", lambda: [node, dead])

    (described,) = cluster_nodes(with_facts=False)

    gpus = (Gpu(index=0), Gpu(index=1))
    assert described == Node(name="a", cpus=4.0, memory_bytes=8 * GIB, reservable_bytes=8 * GIB, gpus=gpus)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "[::1]:1"])
def test_a_cluster_that_nobody_serves_is_refused_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match="nobody answers") as caught, ray_cluster(address):
        pass

    assert caught.value.where == "address"


class SilentKeeper:
    """An actor that never answers."""

    def __init__(self) -> None:
        self.get = SimpleNamespace(remote=lambda: "the answer that does not come")

    @classmethod
    def options(cls, **_options: object) -> Any:
        """Take options as an actor's class does."""
        return SimpleNamespace(remote=lambda _secret: cls())


def test_a_secrets_keeper_that_does_not_answer_is_the_clusters_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_reference: object, *, timeout: float) -> None:
        raise GetTimeoutError(f"after {timeout} s")

    monkeypatch.setattr(cluster, "SecretKeeper", SilentKeeper)
    monkeypatch.setattr(ray, "get", never)

    with pytest.raises(ConfigError, match="did not answer within 60 s") as caught:
        application_secret("shop")

    assert caught.value.where == "shop"


@needs_ipv6
@pytest.mark.parametrize("host", [LOOPBACK_6, "::"])
async def test_a_server_listens_on_ipv6(host: str) -> None:
    check_port(host, 0)
    server = GrpcServer([], max_message_bytes=1_024)

    await server.start(host, 0)

    with socket.create_connection((LOOPBACK_6, server.port), timeout=10):
        await server.stop(grace_s=0.0)


@pytest.mark.parametrize(
    ("node_ip", "address"), [("10.0.0.1", "10.0.0.1:7"), ("fd00::1", "[fd00::1]:7")], ids=["IPv4", "IPv6"]
)
async def test_a_replica_publishes_an_address_that_can_be_called(node_ip: str, address: str) -> None:
    # Not the class itself: its end is Serve's to await.
    replica = SimpleNamespace(_node_ip=node_ip, _server=SimpleNamespace(port=7))

    metadata = await ServerReplica.record_replica_metadata(cast("ServerReplica", replica))

    assert metadata == {ADDRESS_KEY: address}
