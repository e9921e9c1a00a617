"""An endpoint with TLS, asked by clients with the right files, with the wrong ones and with none."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ensemble.errors import ConfigError, EndpointError
from ensemble.rpc.client import AsyncEnsembleClient, ClientTls, EnsembleClient
from ensemble.rpc.health_client import check_health
from tests.certificates import Authority, Mount, client_tls
from tests.rpc.systems import LONG_S, build_echo, channel_to, endpoint_running, wait_until
from tests.rpc.wire import ENSEMBLE_SERVICE

QUESTION = ("Is it safe?", ("yes", "no"))


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def mount(tmp_path: Path, authority: Authority) -> Mount:
    mount = Mount(tmp_path / "server")
    mount.put_identity(authority.issue(), client_ca=authority)
    return mount


async def refused(address: str, tls: ClientTls | None) -> EndpointError:
    """Ask, and give the error that comes of it."""
    async with AsyncEnsembleClient(address, timeout_s=LONG_S, tls=tls) as client:
        with pytest.raises(EndpointError) as caught:
            await client.list_ensembles()
    assert caught.value.status == "UNAVAILABLE"
    return caught.value


async def test_both_clients_vote_through_a_server_whose_authority_they_know(
    mount: Mount, authority: Authority, tmp_path: Path
) -> None:
    tls = client_tls(tmp_path / "client", authority)

    def ask_from_thread(address: str) -> str:
        with EnsembleClient(address, timeout_s=LONG_S, tls=tls) as client:
            return client.classify(*QUESTION).answer

    async with endpoint_running(tls=mount.config()) as endpoint:
        async with AsyncEnsembleClient(endpoint.address, timeout_s=LONG_S, tls=tls) as client:
            decision = await client.classify(*QUESTION)
        answer = await asyncio.to_thread(ask_from_thread, endpoint.address)

    assert decision.answer == answer
    assert answer in QUESTION[1]


@pytest.mark.parametrize("name", ["authority", "another"])  # a stranger may well bear the authority's name
async def test_a_client_that_knows_another_authority_is_told_so(mount: Mount, tmp_path: Path, name: str) -> None:
    tls = client_tls(tmp_path / "client", Authority(name))

    async with endpoint_running(tls=mount.config()) as endpoint:
        error = await refused(endpoint.address, tls)

    assert error.problem.startswith("its certificate does not come from the given authorities")


async def test_a_certificate_for_another_name_is_refused_unless_the_client_expects_it(
    mount: Mount, authority: Authority, tmp_path: Path
) -> None:
    mount.put_identity(authority.issue(hosts=("ensemble.example",)))
    tls = client_tls(tmp_path / "client", authority)

    async with endpoint_running(tls=mount.config()) as endpoint:
        error = await refused(endpoint.address, tls)
        told = replace(tls, name="ensemble.example")
        async with AsyncEnsembleClient(f"ipv4:{endpoint.address}", timeout_s=LONG_S, tls=told) as client:
            summaries = await client.list_ensembles()

    assert error.problem.startswith("its certificate is for another name")
    assert len(summaries) == 1


async def test_a_client_without_tls_hears_that_the_server_may_want_it(mount: Mount) -> None:
    async with endpoint_running(tls=mount.config()) as endpoint:
        error = await refused(endpoint.address, None)

    assert "it may want TLS" in error.problem


async def test_a_client_with_tls_hears_that_the_server_has_none(authority: Authority, tmp_path: Path) -> None:
    async with endpoint_running() as endpoint:
        error = await refused(endpoint.address, client_tls(tmp_path / "client", authority))

    assert error.problem.startswith("it does not speak TLS")


async def test_with_an_authority_of_clients_only_those_that_it_signed_get_in(
    mount: Mount, authority: Authority, tmp_path: Path
) -> None:
    known = client_tls(tmp_path / "known", authority, own=authority.issue("client"))
    nameless = client_tls(tmp_path / "nameless", authority)
    stranger = client_tls(tmp_path / "stranger", authority, own=Authority().issue("client"))

    async with endpoint_running(tls=mount.config(with_clients=True)) as endpoint:
        async with AsyncEnsembleClient(endpoint.address, timeout_s=LONG_S, tls=known) as client:
            decision = await client.classify(*QUESTION)
        without = await refused(endpoint.address, nameless)
        with_wrong = await refused(endpoint.address, stranger)

    assert decision.answer in QUESTION[1]
    assert "a client's certificate that it trusts" in without.problem
    assert "a client's certificate that it trusts" in with_wrong.problem


async def test_probes_without_tls_ask_for_health_on_a_port_of_its_own(mount: Mount) -> None:
    async with endpoint_running(tls=mount.config(with_clients=True)) as endpoint:
        states = [
            await asyncio.to_thread(check_health, endpoint.health_address, service=service, timeout_s=LONG_S)
            for service in ("", ENSEMBLE_SERVICE)
        ]

    assert states == ["SERVING", "SERVING"]


async def test_the_port_for_probes_answers_nothing_but_health(mount: Mount) -> None:
    async with (
        endpoint_running(tls=mount.config()) as endpoint,
        AsyncEnsembleClient(endpoint.health_address, timeout_s=LONG_S) as client,
    ):
        with pytest.raises(EndpointError) as caught:
            await client.list_ensembles()

    assert caught.value.status == "UNIMPLEMENTED"


async def test_probes_hear_of_a_drain_until_it_is_over(mount: Mount, authority: Authority, tmp_path: Path) -> None:
    engine = build_echo(token_delay_s=0.01)
    tls = client_tls(tmp_path / "client", authority)
    async with (
        endpoint_running({"a": engine}, tls=mount.config()) as endpoint,
        channel_to(endpoint.health_address) as channel,
        AsyncEnsembleClient(endpoint.address, timeout_s=LONG_S, tls=tls) as client,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        under_way = asyncio.create_task(client.generate("word " * 200))
        await wait_until(lambda: engine.stats().running_requests > 0)
        stopping = asyncio.create_task(endpoint.server.stop(grace_s=LONG_S))
        await asyncio.sleep(0.1)  # the drain has begun by then
        during = await stub.Check(health_pb2.HealthCheckRequest(), timeout=LONG_S)
        was_stopping = not stopping.done()
        await under_way
        await stopping
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=LONG_S)

    assert was_stopping
    assert during.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_half_of_a_clients_own_pair_is_refused_by_its_name(authority: Authority, tmp_path: Path, missing: str) -> None:
    whole = client_tls(tmp_path, authority, own=authority.issue("client"))
    half = replace(whole, **{missing: None})  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match="it is missing") as caught:
        EnsembleClient("localhost:1", tls=half)

    assert caught.value.where == f"tls.{missing}"


def test_a_clients_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tls\.ca \(.*none\.pem\): it cannot be read \(No such file or directory\)"):
        EnsembleClient("localhost:1", tls=ClientTls(ca=tmp_path / "none.pem"))
