"""The voting deployment, reached through the endpoint and on its own port."""

from __future__ import annotations

import grpc
import pytest
from ray import serve

from ensemble.errors import QuorumError
from ensemble.replica_servers import VOTING, member_deployment
from ensemble.router.ports import ReplicaAddress
from ensemble.router.request import VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.rpc.secret import SECRET_KEY
from ensemble.rpc.voting_client import GrpcVotingClient
from ensemble.serving.cluster import application_secret
from ensemble.serving.replica_picker import ServeReplicaPicker
from ensemble.v1 import member_service_pb2, voting_service_pb2
from ensemble.voting.ballot import Ballot, Voter
from ensemble.voting.decision import DecidedBy
from ensemble.voting.strategy import Question, Quorum
from tests.rpc.systems import build_caller, channel_to, channels_open
from tests.rpc.wire import check_facts, read_refusal, send
from tests.serving.systems import GENEROUS_S, RunningSystem

pytestmark = pytest.mark.ray

TEXTS = ("the cat sat on the mat", "the cat sat on a mat", "no idea")
QUESTION = Question(panel=tuple(Voter(member=name, family=name) for name in "abc"), quorum=Quorum())
BALLOTS = tuple(Ballot(member=name, text=text) for name, text in zip("abc", TEXTS, strict=True))


def picker_of(system: RunningSystem, deployment: str) -> ServeReplicaPicker:
    return ServeReplicaPicker(deployment, serve.get_deployment_handle(deployment, system.spec.name))


async def address_of(system: RunningSystem, deployment: str) -> ReplicaAddress:
    return await picker_of(system, deployment).pick()


async def test_mbr_is_decided_through_the_endpoint(system: RunningSystem) -> None:
    async with AsyncEnsembleClient(system.address) as client:
        decision = await client.generate("one two three", ensemble="panel", options=VoteOptions(strategy="mbr"))

    assert (decision.answer, decision.strategy) == ("one two three", "mbr")
    assert decision.agreement == pytest.approx(1.0)
    assert len(decision.ballots) == 4


async def test_the_voting_service_decides_for_given_texts(system: RunningSystem) -> None:
    async with channels_open() as channels:
        caller = build_caller(channels, picker_of(system, VOTING), pick_timeout_s=GENEROUS_S)
        client = GrpcVotingClient(caller, secret=application_secret(system.spec.name))

        decision = await client.decide("mbr", QUESTION, BALLOTS, decided_by=DecidedBy.ALL, timeout_s=GENEROUS_S)
        with pytest.raises(QuorumError):
            await client.decide("mbr", QUESTION, (), decided_by=DecidedBy.DEADLINE, timeout_s=GENEROUS_S)

    assert decision.answer in TEXTS[:2]
    assert decision.candidates[-1].answer == TEXTS[2]
    assert decision.num_asked == 3


# The rows: a deployment and a method of its own port.
GUARDED = [
    (member_deployment("p0"), "ensemble.v1.MemberService/GetStats"),
    (member_deployment("p0"), "ensemble.v1.MemberService/Score"),
    (member_deployment("tiny"), "ensemble.v1.MemberService/Complete"),
    (VOTING, "ensemble.v1.VotingService/Decide"),
    (VOTING, "ensemble.v1.VotingService/Unknown"),
]


@pytest.mark.parametrize(("deployment", "path"), GUARDED)
@pytest.mark.parametrize("metadata", [(), ((SECRET_KEY, "wrong"),)])
async def test_a_replicas_own_port_refuses_calls_without_the_secret(
    system: RunningSystem, deployment: str, path: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    replica = await address_of(system, deployment)

    async with channel_to(replica.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, path, b"", metadata)

    refusal = read_refusal(caught.value)
    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
    check_facts(refusal, reason="AuthenticationError", field=SECRET_KEY)


async def test_a_replicas_own_port_answers_to_the_applications_secret(system: RunningSystem) -> None:
    metadata = ((SECRET_KEY, application_secret(system.spec.name)),)
    member, voting = await address_of(system, member_deployment("p0")), await address_of(system, VOTING)

    async with channel_to(member.address) as channel:
        raw = await send(channel, "ensemble.v1.MemberService/GetStats", b"", metadata)
    async with channel_to(voting.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(
                channel,
                "ensemble.v1.VotingService/Decide",
                voting_service_pb2.DecideRequest(strategy="mbr").SerializeToString(),
                metadata,
            )

    assert member_service_pb2.GetStatsResponse.FromString(raw).HasField("stats")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_every_deployment_of_the_application_has_the_same_secret_and_another_application_another(
    system: RunningSystem,
) -> None:
    secret = application_secret(system.spec.name)

    assert application_secret(system.spec.name) == secret
    assert application_secret("another") != secret
    assert len(secret) >= 32
