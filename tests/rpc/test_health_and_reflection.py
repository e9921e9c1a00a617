from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ensemble.errors import EndpointError
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.rpc.server import GrpcServer
from tests.rpc.systems import Endpoint, build_echo, channel_to, endpoint_running, wait_until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ENSEMBLE_SERVICE = "ensemble.v1.EnsembleService"
SLOW_PROMPT = "word " * 100


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with endpoint_running({"a": build_echo(token_delay_s=0.005)}) as running:
        yield running


async def reflect(channel: grpc.aio.Channel, **request: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(**request)])
    async for response in stub.ServerReflectionInfo(requests, timeout=10.0):
        return response
    raise AssertionError("reflection answers every request")


async def test_reflection_lists_the_services(endpoint: Endpoint) -> None:
    async with channel_to(endpoint.address) as channel:
        response = await reflect(channel, list_services="")

    assert {service.name for service in response.list_services_response.service} == {
        ENSEMBLE_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_reflection_describes_the_service_with_its_files(endpoint: Endpoint) -> None:
    async with channel_to(endpoint.address) as channel:
        response = await reflect(channel, file_containing_symbol=ENSEMBLE_SERVICE)

    assert any(b"StreamGenerate" in file for file in response.file_descriptor_response.file_descriptor_proto)


@pytest.mark.parametrize("service", ["", ENSEMBLE_SERVICE])
async def test_health_says_serving_of_the_server_and_of_its_service(endpoint: Endpoint, service: str) -> None:
    async with channel_to(endpoint.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10.0)

    assert response.status == SERVING


async def test_a_server_that_is_not_ready_says_not_serving_until_it_is() -> None:
    server = GrpcServer([], max_message_bytes=1_024)
    await server.start("127.0.0.1", 0, is_ready=False)
    try:
        async with channel_to(f"127.0.0.1:{server.port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20.0)
            before = await watch.read()
            await server.set_ready()
            after = await watch.read()
            watch.cancel()
    finally:
        await server.stop(grace_s=1.0)

    assert (before.status, after.status) == (NOT_SERVING, SERVING)


async def test_health_does_not_know_other_services(endpoint: Endpoint) -> None:
    async with channel_to(endpoint.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="ensemble.v1.MemberService"), timeout=10.0)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_server_that_drains_says_not_serving_ends_what_is_under_way_and_takes_nothing_new(
    endpoint: Endpoint,
) -> None:
    async with channel_to(endpoint.address) as channel, AsyncEnsembleClient(endpoint.address) as client:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20.0)
        before = await watch.read()
        under_way = asyncio.create_task(client.generate(SLOW_PROMPT))
        await wait_until(lambda: endpoint.engines["a"].stats().running_requests > 0)

        draining = asyncio.create_task(endpoint.server.stop(grace_s=10.0))
        after = await watch.read()
        watch.cancel()
        decision = await under_way
        await draining
        async with AsyncEnsembleClient(endpoint.address) as late:
            with pytest.raises(EndpointError) as caught:
                await late.generate("too late")

    assert (before.status, after.status) == (SERVING, NOT_SERVING)
    assert len(decision.answer.split()) == 100
    assert caught.value.status == "UNAVAILABLE"


async def test_a_watcher_of_health_is_told_and_let_go_so_that_it_does_not_hold_up_the_drain(endpoint: Endpoint) -> None:
    async with channel_to(endpoint.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60.0)
        heard = [(await watch.read()).status]

        async with asyncio.timeout(20.0):
            await endpoint.server.stop(grace_s=60.0)
        while (response := await watch.read()) is not grpc.aio.EOF:
            heard.append(response.status)

    assert heard == [SERVING, NOT_SERVING]


async def test_a_drain_cuts_off_what_outlasts_its_grace() -> None:
    engine = build_echo(token_delay_s=1.0)
    async with endpoint_running({"a": engine}) as endpoint, AsyncEnsembleClient(endpoint.address) as client:
        under_way = asyncio.create_task(client.generate(SLOW_PROMPT))
        await wait_until(lambda: engine.stats().running_requests > 0)

        await endpoint.server.stop(grace_s=0.1)
        with pytest.raises(EndpointError):
            await under_way
        await wait_until(lambda: not engine.stats().running_requests)

    assert engine.stats().aborted_requests == 1


async def test_stopping_twice_is_stopping_once(endpoint: Endpoint) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(endpoint.server.stop(grace_s=1.0))
        group.create_task(endpoint.server.stop(grace_s=1.0))

    await endpoint.server.stop(grace_s=1.0)


async def test_a_server_that_gives_notice_says_so_and_still_takes_calls(endpoint: Endpoint) -> None:
    async with channel_to(endpoint.address) as channel, AsyncEnsembleClient(endpoint.address) as client:
        await client.classify("Is it open?", ["yes", "no"])
        stopping = asyncio.create_task(endpoint.server.stop(grace_s=30.0, notice_s=3.0))
        stub = health_pb2_grpc.HealthStub(channel)
        await asyncio.sleep(0.1)
        response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10.0)
        decision = await client.classify("Is it still open?", ["yes", "no"])
        was_stopping = not stopping.done()
        await stopping

    assert response.status == NOT_SERVING
    assert decision.answer in {"yes", "no"}
    assert was_stopping
