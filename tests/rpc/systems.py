"""Runs a whole system in this process: echo members, the voting service and the endpoint, each on its own port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc

from ensemble.config import TlsConfig
from ensemble.engines.config import EchoEngineConfig
from ensemble.engines.echo import EchoEngine
from ensemble.engines.engine import Engine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.router.config import LimitsConfig
from ensemble.router.election import Ensemble
from ensemble.router.ensemble_router import EnsembleRouter
from ensemble.router.feedback import OnlineWeights
from ensemble.router.ports import ReplicaPicker, ReplicaReport
from ensemble.rpc.certificates import ServerCertificates
from ensemble.rpc.channels import ChannelCache
from ensemble.rpc.ensemble_servicer import EnsembleServicer, MemberEntry
from ensemble.rpc.member_client import GrpcMemberClient
from ensemble.rpc.member_servicer import MemberServicer
from ensemble.rpc.replica_call import ReplicaCaller
from ensemble.rpc.server import GrpcServer, Service
from ensemble.rpc.voting_client import GrpcVotingClient
from ensemble.rpc.voting_servicer import VotingServicer
from ensemble.v1 import ensemble_service_pb2, member_service_pb2, voting_service_pb2
from tests.fakes.observer import FakeObserver
from tests.fakes.replica_picker import FakeReplicaPicker
from tests.ports import HOST
from tests.router.panels import build_ensemble

SECRET = "the application's own"  # noqa: S105 - of these tests
MAX_MESSAGE_BYTES = 1 << 16
LIMITS = LimitsConfig(
    max_prompt_chars=1_000, max_choices=4, max_choice_chars=50, max_tokens=500, max_message_bytes=MAX_MESSAGE_BYTES
)
LONG_S = 20.0
"""No test waits this long unless something is broken."""
NOBODY = f"{HOST}:1"
"""An address where nobody listens."""


def build_echo(member: str = "a", **config: object) -> EchoEngine:
    """Make an echo engine."""
    return EchoEngine(
        EchoEngineConfig.model_validate(config),
        checkpoint="",
        member=member,
        prompt_format=PromptFormat(),
    )


@asynccontextmanager
async def member_running(engine: Engine, *, member: str = "a", secret: str = SECRET) -> AsyncIterator[str]:
    """Serve an engine; yields the address."""
    service = Service(
        descriptor=member_service_pb2.DESCRIPTOR.services_by_name["MemberService"],
        servicer=MemberServicer(member, engine),
    )
    server = GrpcServer([service], max_message_bytes=MAX_MESSAGE_BYTES, secret=secret)
    await server.start(HOST, 0)
    try:
        yield f"{HOST}:{server.port}"
    finally:
        await server.stop(grace_s=0.0)


@asynccontextmanager
async def voting_running() -> AsyncIterator[str]:
    """Serve votes; yields the address."""
    servicer = VotingServicer(num_threads=1)
    service = Service(descriptor=voting_service_pb2.DESCRIPTOR.services_by_name["VotingService"], servicer=servicer)
    server = GrpcServer([service], max_message_bytes=MAX_MESSAGE_BYTES, secret=SECRET)
    await server.start(HOST, 0)
    try:
        yield f"{HOST}:{server.port}"
    finally:
        await server.stop(grace_s=0.0)
        servicer.close()


@asynccontextmanager
async def channels_open() -> AsyncIterator[ChannelCache]:
    """Give a cache of channels and close it at the end."""
    channels = ChannelCache()
    try:
        yield channels
    finally:
        await channels.close()


def build_caller(channels: ChannelCache, picker: ReplicaPicker, *, pick_timeout_s: float = 1.0) -> ReplicaCaller:
    """Make a caller of the replicas that ``picker`` gives."""
    return ReplicaCaller(name="a", picker=picker, channels=channels, pick_timeout_s=pick_timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A running endpoint and the engines behind it."""

    address: str
    server: GrpcServer
    engines: Mapping[str, Engine]
    observer: FakeObserver = field(default_factory=FakeObserver)
    health_address: str = ""


@asynccontextmanager
async def endpoint_running(
    engines: Mapping[str, Engine] | None = None,
    *,
    ensembles: tuple[Ensemble, ...] = (),
    addresses: Mapping[str, tuple[str, ...]] | None = None,
    limits: LimitsConfig = LIMITS,
    online: OnlineWeights | None = None,
    reports: tuple[ReplicaReport, ...] = (),
    tls: TlsConfig | None = None,
) -> AsyncIterator[Endpoint]:
    """Serve these members; ``addresses`` are tried before a member's own, ``ensembles`` default to one of them all.

    ``reports`` are what every member's replicas tell. With ``tls`` health is answered without it on a port of its own.
    """
    engines = engines or {"a": build_echo("a"), "b": build_echo("b", seed=1), "c": build_echo("c", seed=2)}
    observer = FakeObserver()
    async with AsyncExitStack() as stack:
        channels = await stack.enter_async_context(channels_open())
        clients: dict[str, GrpcMemberClient] = {}
        for member, engine in engines.items():
            own = await stack.enter_async_context(member_running(engine, member=member))
            picker = FakeReplicaPicker(addresses=(*(addresses or {}).get(member, ()), own), replica_reports=reports)
            clients[member] = GrpcMemberClient(build_caller(channels, picker), member=member, secret=SECRET)
        voting = await stack.enter_async_context(voting_running())
        router = EnsembleRouter(
            ensembles or (build_ensemble(list(engines)),),
            clients,
            GrpcVotingClient(build_caller(channels, FakeReplicaPicker(addresses=(voting,))), secret=SECRET),
            limits=limits,
            observer=observer,
            online=online,
        )
        members = {member: MemberEntry(checkpoint="none", client=client) for member, client in clients.items()}
        service = Service(
            descriptor=ensemble_service_pb2.DESCRIPTOR.services_by_name["EnsembleService"],
            servicer=EnsembleServicer(router, members),
        )
        server = GrpcServer(
            [service],
            max_message_bytes=limits.max_message_bytes,
            certificates=ServerCertificates(tls) if tls else None,
        )
        await server.start(HOST, 0)
        probed = f"{HOST}:{await server.start_probed(HOST, 0)}" if tls else ""
        address = f"{HOST}:{server.port}"
        try:
            yield Endpoint(address=address, server=server, engines=engines, observer=observer, health_address=probed)
        finally:
            await server.stop(grace_s=0.0)


async def wait_until(is_so: Callable[[], bool]) -> None:
    """Let the loop run until it is so: an engine's counters are read, not announced."""
    async with asyncio.timeout(LONG_S):
        while not is_so():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """Open a plain channel."""
    async with grpc.aio.insecure_channel(address, options=(("grpc.enable_retries", 0),)) as channel:
        yield channel
