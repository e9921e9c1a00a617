"""The servers that replicas run: a member, the voting service, the router."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.config import MemberConfig, Spec
from ensemble.engines.engine import Engine, EngineStats
from ensemble.errors import MemberUnavailableError
from ensemble.member_start import start_engine, take_away
from ensemble.router.build_ensemble import build_ensemble
from ensemble.router.election import Ensemble
from ensemble.router.ensemble_router import EnsembleRouter
from ensemble.router.feedback import FeedbackPolicy, OnlineWeights
from ensemble.router.ports import ReplicaPicker
from ensemble.rpc.certificates import ServerCertificates
from ensemble.rpc.channels import ChannelCache
from ensemble.rpc.ensemble_servicer import EnsembleServicer, MemberEntry
from ensemble.rpc.member_client import GrpcMemberClient
from ensemble.rpc.member_servicer import MemberServicer
from ensemble.rpc.replica_call import ReplicaCaller
from ensemble.rpc.server import GrpcServer, Service
from ensemble.rpc.voting_client import GrpcVotingClient
from ensemble.rpc.voting_servicer import VotingServicer
from ensemble.serving.engine_figures import EngineFigures
from ensemble.serving.feedback_store import ServeFeedbackStore
from ensemble.serving.observer import ServeObserver
from ensemble.serving.replica import Place
from ensemble.v1 import ensemble_service_pb2, member_service_pb2, voting_service_pb2
from ensemble.voting.ballot import Voter
from ensemble.voting.calibrated import EnsembleCalibration

READINESS_POLL_S = 0.5
VOTING = "voting"
ROUTER = "router"
AUDIT_GRACE_S = 2.0
"""Audits that the feedback's store has not got by then are lost when a router replica stops."""
MEMBER_MESSAGE_BYTES = 1 << 28
"""Between our own replicas: a heavy vote carries every text of the panel."""


@dataclass(slots=True)
class MemberServer:
    """A member's replica: an engine, the server in front of it, and the engine's figures."""

    engine: Engine
    server: GrpcServer
    figures: EngineFigures

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self.server.port

    def stats(self) -> EngineStats:
        """Read the engine's counters."""
        return self.engine.stats()

    async def check_health(self) -> None:
        """Tell the figures, and raise when the engine cannot serve."""
        self.figures.tell(self.engine.stats())
        await self.engine.check_health()

    async def stop(self, *, grace_s: float) -> None:
        """Drain, then free the engine."""
        await self.server.stop(grace_s=grace_s)
        await self.engine.close()
        self.figures.tell(self.engine.stats())


@dataclass(slots=True)
class VotingServer:
    """A voting replica."""

    servicer: VotingServicer
    server: GrpcServer

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self.server.port

    def stats(self) -> None:
        """Say that there is no engine."""

    async def check_health(self) -> None:
        """Return: it has nothing that could break but the process."""

    async def stop(self, *, grace_s: float) -> None:
        """Drain."""
        await self.server.stop(grace_s=grace_s)
        self.servicer.close()


@dataclass(slots=True)
class RouterServer:
    """A router replica: the endpoint, and the channels to everyone it calls."""

    channels: ChannelCache
    server: GrpcServer
    observer: ServeObserver
    readiness: asyncio.Task[None]
    online: OnlineWeights | None = None
    notice_s: float = 0.0

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self.server.port

    def stats(self) -> None:
        """Say that there is no engine."""

    async def check_health(self) -> None:
        """Tell the figures, and return: members that are away make abstentions, not a broken router."""
        self.observer.flush()
        if self.readiness.done() and not self.readiness.cancelled():
            self.readiness.result()  # raises what kept it from ever being ready
        if self.online is not None:
            await self.online.check_health()

    async def stop(self, *, grace_s: float) -> None:
        """Drain, then let go of the members."""
        self.readiness.cancel()
        await self.server.stop(grace_s=grace_s, notice_s=self.notice_s)
        if self.online is not None:
            await self.online.stop(grace_s=AUDIT_GRACE_S)
        self.observer.flush()
        await self.channels.close()


async def start_member(member: MemberConfig, secret: str, start_timeout_s: float, /, place: Place) -> MemberServer:
    """Load the member's engine and serve it on a free port; members that share a GPU do so one after another."""
    engine = await start_engine(member, timeout_s=start_timeout_s, on_phase=place.on_phase)
    service = Service(
        descriptor=member_service_pb2.DESCRIPTOR.services_by_name["MemberService"],
        servicer=MemberServicer(member.name, engine),
    )
    server = GrpcServer([service], max_message_bytes=MEMBER_MESSAGE_BYTES, secret=secret)
    try:
        await server.start(place.node_ip, 0)
    except BaseException:
        await take_away(engine)
        raise
    return MemberServer(engine=engine, server=server, figures=EngineFigures(member.name))


async def start_voting(num_threads: int, secret: str, place: Place) -> VotingServer:
    """Serve votes on a free port."""
    servicer = VotingServicer(num_threads=num_threads)
    service = Service(descriptor=voting_service_pb2.DESCRIPTOR.services_by_name["VotingService"], servicer=servicer)
    server = GrpcServer([service], max_message_bytes=MEMBER_MESSAGE_BYTES, secret=secret)
    await server.start(place.node_ip, 0)
    return VotingServer(servicer=servicer, server=server)


async def start_router(
    spec: Spec, calibrations: Mapping[str, EnsembleCalibration], secret: str, /, place: Place
) -> RouterServer:
    """Serve the endpoint; ``calibrations`` are by the ensemble's name."""
    channels = ChannelCache()
    observer = ServeObserver()

    clients, voting = build_clients(spec, secret, place.picker_by_name, channels)
    online = _online_weights(spec, secret)
    router = EnsembleRouter(
        build_ensembles(spec, calibrations),
        clients,
        voting,
        limits=spec.limits,
        observer=observer,
        online=online,
    )
    if online is not None:
        await online.start()
    members = {
        member.name: MemberEntry(checkpoint=member.checkpoint, client=clients[member.name]) for member in spec.members
    }
    server = await _open_endpoint(spec, EnsembleServicer(router, members), place)
    readiness = asyncio.create_task(announce(server, spec, place), name="readiness")
    return RouterServer(
        channels=channels,
        server=server,
        observer=observer,
        readiness=readiness,
        online=online,
        notice_s=spec.router.notice_s,
    )


def build_clients(
    spec: Spec, secret: str, picker_by_name: Mapping[str, ReplicaPicker], channels: ChannelCache
) -> tuple[dict[str, GrpcMemberClient], GrpcVotingClient]:
    """Make what a router asks: its members, by name, and the voting service; ``picker_by_name`` is by deployment."""

    def caller(name: str, *, pick_timeout_s: float = spec.limits.pick_timeout_s) -> ReplicaCaller:
        return ReplicaCaller(name=name, picker=picker_by_name[name], channels=channels, pick_timeout_s=pick_timeout_s)

    clients = {
        member.name: GrpcMemberClient(caller(member_deployment(member.name)), member=member.name, secret=secret)
        for member in spec.members
    }
    # The members have done their work by then: better late than lost.
    voting = caller(VOTING, pick_timeout_s=spec.limits.request_timeout_s)
    return clients, GrpcVotingClient(voting, secret=secret)


async def _open_endpoint(spec: Spec, servicer: EnsembleServicer, place: Place) -> GrpcServer:
    """Listen; health does not say SERVING yet. Raises ConfigError for a port or a certificate that cannot be had."""
    tls = spec.router.tls
    certificates = await asyncio.to_thread(ServerCertificates, tls) if tls else None
    descriptor = ensemble_service_pb2.DESCRIPTOR.services_by_name["EnsembleService"]
    service = Service(descriptor=descriptor, servicer=servicer)
    server = GrpcServer([service], max_message_bytes=spec.limits.max_message_bytes, certificates=certificates)
    # Who is found by asking Serve alone needs no address that was known before.
    host = spec.router.host or place.node_ip
    await server.start(host, spec.router.port, is_ready=False)
    if tls and tls.health_port:
        await server.start_probed(host, tls.health_port)
    return server


def _online_weights(spec: Spec, secret: str) -> OnlineWeights | None:
    """Make the view of what was learned from feedback, if an ensemble takes some."""
    config_by_ensemble = {ensemble.name: ensemble.feedback for ensemble in spec.ensembles if ensemble.feedback}
    if not config_by_ensemble:
        return None
    policies = {
        name: FeedbackPolicy(
            audit_share=config.audit_share, learning_rate=config.learning_rate, max_shift=config.max_shift
        )
        for name, config in config_by_ensemble.items()
    }
    # The spec sees to it that there is one folder.
    folder = Path(next(iter(config_by_ensemble.values())).state_dir)
    return OnlineWeights(ServeFeedbackStore(spec.name, folder, policies), policies, secret=secret)


async def announce(server: GrpcServer, spec: Spec, place: Place) -> None:
    """Let health say SERVING once everyone that one ensemble asks, and the voting service, have had a replica."""

    async def members_up(members: tuple[str, ...]) -> None:
        for name in (VOTING, *map(member_deployment, members)):
            await wait_for_replica(place.picker_by_name[name])

    asked = [(*one.members, *filter(None, one.assistants.model_dump().values())) for one in spec.ensembles]
    waits = [asyncio.create_task(members_up(members)) for members in asked]
    try:
        await _first_success(waits)
    finally:
        for wait in waits:
            wait.cancel()
    await server.set_ready()


async def _first_success(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Return when one task has done its work; raise when all have failed."""
    failures: list[Exception] = []
    for task in asyncio.as_completed(tasks):
        try:
            await task
        except Exception as error:  # noqa: BLE001 - whatever it was, another task may still succeed
            failures.append(error)
        else:
            return
    raise ExceptionGroup("no ensemble came up", failures)


async def wait_for_replica(picker: ReplicaPicker) -> None:
    """Return when a deployment has a replica; the task that waits is cancelled when nobody needs it."""
    while True:
        try:
            await picker.pick()
        except MemberUnavailableError:
            await asyncio.sleep(READINESS_POLL_S)
        else:
            return


def build_ensembles(spec: Spec, calibrations: Mapping[str, EnsembleCalibration]) -> tuple[Ensemble, ...]:
    """Make the router's ensembles; ``calibrations`` are by the ensemble's name."""
    voter_by_member = {
        member.name: Voter(member=member.name, family=member.family, weight=member.weight) for member in spec.members
    }
    return tuple(
        build_ensemble(config, tuple(voter_by_member[name] for name in config.members), calibrations.get(config.name))
        for config in spec.ensembles
    )


def member_deployment(member: str) -> str:
    """Name a member's deployment."""
    return f"member-{member}"
