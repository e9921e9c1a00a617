"""TLS on a cluster: two router replicas share a port, and both follow the files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensemble.app import deploy
from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.rpc.health_client import check_health
from tests.certificates import Authority, Mount, client_tls, shown_serial
from tests.ports import HOST, free_port
from tests.rpc.systems import wait_until
from tests.serving.systems import GENEROUS_S, RunningSystem, build_spec, echo_member, remove, run

pytestmark = pytest.mark.ray

NUM_CLIENTS = 8
NUM_CONNECTIONS = 24
"""The system gives connections to the replicas by chance: one that got none of so many would be a wonder."""


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def mount(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Mount:
    mount = Mount(tmp_path_factory.mktemp("tls"))
    mount.put_identity(authority.issue())
    return mount


def build(name: str, mount: Mount) -> Spec:
    tls = mount.config(health_port=free_port()).model_dump()
    members = [echo_member(member, seed=seed) for seed, member in enumerate("ab")]
    return build_spec(name, members, router={"port": free_port(), "replicas": 2, "tls": tls})


@pytest.fixture(scope="module")
def system(cluster: None, mount: Mount) -> Iterator[RunningSystem]:  # noqa: ARG001 - it must run
    yield run(build("with-tls", mount))
    remove("with-tls")


async def test_replicas_take_new_certificates_under_traffic_and_no_request_is_lost(
    system: RunningSystem, mount: Mount, authority: Authority, tmp_path: Path
) -> None:
    tls = client_tls(tmp_path, authority)
    num_answered = [0] * NUM_CLIENTS
    is_over = asyncio.Event()

    async def call_on(number: int) -> None:
        while not is_over.is_set():
            async with AsyncEnsembleClient(system.address, timeout_s=GENEROUS_S, tls=tls) as client:
                await client.classify("Is it still there?", ["yes", "no"])
            num_answered[number] += 1

    shown = []
    async with asyncio.TaskGroup() as group:
        for number in range(NUM_CLIENTS):
            group.create_task(call_on(number))
        put = [authority.issue() for _ in range(3)]
        for issued in put:
            before = list(num_answered)
            mount.put_identity(issued)
            serials = [await asyncio.to_thread(shown_serial, system.address) for _ in range(NUM_CONNECTIONS)]
            shown.append(set(serials))
            await wait_until(lambda before=before: all(map(int.__gt__, num_answered, before)))  # type: ignore[misc]
        is_over.set()

    assert shown == [{issued.certificate.serial_number} for issued in put]


def test_a_probe_that_knows_no_tls_hears_that_it_serves(system: RunningSystem) -> None:
    tls = system.spec.router.tls
    assert tls is not None

    assert check_health(f"{HOST}:{tls.health_port}", timeout_s=GENEROUS_S) == "SERVING"


@pytest.mark.parametrize("is_own_cluster", [True, False])
def test_a_certificate_that_cannot_be_used_is_named_by_who_deploys(
    cluster: None,  # noqa: ARG001 - it must run
    authority: Authority,
    tmp_path: Path,
    is_own_cluster: bool,  # noqa: FBT001 - a parameter
) -> None:
    mount = Mount(tmp_path)
    mount.put({"tls.crt": authority.issue().pem, "tls.key": authority.issue().key_pem})

    with pytest.raises(ConfigError) as caught:
        # On another cluster only the replicas see their files.
        deploy(build("unborn-tls", mount), on_progress=lambda _states: None, is_own_cluster=is_own_cluster)
    remove("unborn-tls")

    assert "it is not the key of the first certificate in router.tls.certificate" in str(caught.value)
