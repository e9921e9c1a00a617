from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from ensemble.errors import QuorumError, UnknownNameError, VotingUnavailableError
from ensemble.rpc.secret import SECRET_KEY
from ensemble.rpc.voting_client import GrpcVotingClient
from ensemble.v1 import vote_pb2
from ensemble.v1 import voting_service_pb2 as pb
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote, Voter
from ensemble.voting.decision import DecidedBy
from ensemble.voting.strategy import Question, Quorum
from tests.fakes.replica_picker import FakeReplicaPicker
from tests.rpc.systems import (
    MAX_MESSAGE_BYTES,
    NOBODY,
    SECRET,
    build_caller,
    channel_to,
    channels_open,
    voting_running,
)
from tests.rpc.wire import check_facts, read_refusal, send, text_field

DECIDE = "ensemble.v1.VotingService/Decide"
METADATA = ((SECRET_KEY, SECRET),)
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequestError")
UNKNOWN = (grpc.StatusCode.NOT_FOUND, "UnknownNameError")
TOO_LARGE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "MessageTooLargeError")
PANEL = [vote_pb2.Voter(member=member, family=member, weight=1.0) for member in "ab"]
A, B = (vote_pb2.Ballot(member=member, choice="yes") for member in "ab")
HUGE = Duration(seconds=2**62)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A vote's bytes, and how they must be refused."""

    name: str
    raw: bytes
    verdict: tuple[grpc.StatusCode, str] = INVALID
    field: str


def bad(name: str, field: str, verdict: tuple[grpc.StatusCode, str] = INVALID, **fields: object) -> Bad:
    return Bad(name=name, raw=decide(**fields).SerializeToString(), verdict=verdict, field=field)


def decide(**fields: object) -> pb.DecideRequest:
    defaults = {"strategy": "weighted_vote", "panel": PANEL, "choices": ["yes", "no"], "ballots": [A, B]}
    return pb.DecideRequest(**{**defaults, **fields})  # type: ignore[arg-type]


def voters(*weights: float) -> list[vote_pb2.Voter]:
    return [vote_pb2.Voter(member="ab"[n], weight=weight) for n, weight in enumerate(weights)]


def soft(*probabilities: float) -> list[vote_pb2.Ballot]:
    return [vote_pb2.Ballot(member="a", probabilities=probabilities)]


def quorum(**fields: object) -> vote_pb2.Quorum:
    return vote_pb2.Quorum(**fields)  # type: ignore[arg-type]


def rule(**fields: object) -> Any:
    texts = [vote_pb2.Ballot(member="a", text="one")]
    return {"choices": [], "ballots": texts, "answer_rule": pb.AnswerRule(**fields)}  # type: ignore[arg-type]


BAD = [
    bad("unknown strategy", "strategy", UNKNOWN, strategy="dice"),
    bad("no strategy", "strategy", UNKNOWN, strategy=""),
    bad("no panel", "panel", panel=[]),
    bad("too large a panel", "panel", panel=[vote_pb2.Voter(member=str(n), weight=1.0) for n in range(257)]),
    bad("voter without a name", "panel[1].member", panel=[PANEL[0], vote_pb2.Voter(weight=1.0)]),
    bad("voter twice", "panel[1].member", panel=[PANEL[0], PANEL[0]]),
    bad("NaN weight", "panel[1].weight", panel=voters(1.0, math.nan)),
    bad("infinite weight", "panel[0].weight", panel=voters(-math.inf, 1.0)),
    bad("weights of zero", "panel", panel=voters(0.0, 0.0)),
    bad("weights that overflow", "panel", panel=voters(1.7e308, 1.7e308)),
    bad("unknown member", "ballots", ballots=[vote_pb2.Ballot(member="stranger", choice="yes")]),
    bad("very long unknown member", "ballots", ballots=[vote_pb2.Ballot(member="é" * 9_999, choice="yes")]),
    bad("two ballots of one member", "ballots", ballots=[A, A]),
    bad(
        "a ballot and an abstention of one member",
        "ballots",
        abstentions=[vote_pb2.Abstention(member="a", reason=vote_pb2.ABSTENTION_REASON_ERROR)],
    ),
    bad("abstention without a reason", "abstentions.reason", abstentions=[vote_pb2.Abstention(member="a")]),
    bad("undeclared choice", "ballots[a]", ballots=[vote_pb2.Ballot(member="a", choice="perhaps")]),
    bad("very long choice", "ballots[a]", ballots=[vote_pb2.Ballot(member="a", choice="p" * 30_000)]),
    bad("ballot without a vote", "ballots[a]", ballots=[vote_pb2.Ballot(member="a")]),
    bad("probabilities that do not sum to one", "ballots[a]", ballots=soft(0.5, 0.6)),
    bad("too few probabilities", "ballots[a]", ballots=soft(1.0)),
    bad("NaN probability", "ballots[a]", ballots=soft(math.nan, 1.0)),
    bad("negative probability", "ballots[a]", ballots=soft(-0.5, 1.5)),
    bad("hard ballots in a soft vote", "ballots[a]", strategy="soft_vote"),
    bad("NaN logprob", "ballots[a]", ballots=[vote_pb2.Ballot(member="a", choice="yes", logprob=math.nan)]),
    bad("infinite logprob", "ballots[a]", ballots=[vote_pb2.Ballot(member="a", choice="yes", logprob=-math.inf)]),
    bad("huge latency", "ballots.latency", ballots=[vote_pb2.Ballot(member="a", choice="yes", latency=HUGE)]),
    bad(
        "latency that is no duration",
        "ballots.latency",
        ballots=[vote_pb2.Ballot(member="a", choice="yes", latency=Duration(seconds=1, nanos=-1))],
    ),
    bad(
        "huge latency of an abstention",
        "abstentions.latency",
        ballots=[A],
        abstentions=[vote_pb2.Abstention(member="b", reason=vote_pb2.ABSTENTION_REASON_ERROR, latency=HUGE)],
    ),
    bad("one choice", "choices", choices=["yes"]),
    bad("duplicate choices", "choices", choices=["yes", "yes"]),
    bad("no choices for a soft vote", "choices", strategy="soft_vote", choices=[]),
    bad("NaN share", "quorum.min_weight", quorum=quorum(min_weight=math.nan)),
    bad("share above one", "quorum.min_weight", quorum=quorum(min_weight=1.5)),
    bad("negative share", "quorum.min_weight", quorum=quorum(min_weight=-1e308)),
    bad("no families", "quorum.min_families", quorum=quorum(min_families=0)),
    bad("pattern that is none", "answer_rule.pattern", **rule(extract=pb.ANSWER_EXTRACTION_PATTERN, pattern="(")),
    bad("no pattern", "answer_rule.pattern", **rule(extract=pb.ANSWER_EXTRACTION_PATTERN)),
    bad("unknown extraction", "answer_rule.extract", **rule(extract=99)),
    bad("zero scale", "calibration.kappa", calibration=pb.VoteCalibration(kappa=0.0)),
    bad("infinite scale", "calibration.kappa", calibration=pb.VoteCalibration(kappa=math.inf)),
    bad("NaN scale", "calibration.kappa", calibration=pb.VoteCalibration(kappa=math.nan)),
    bad("too few priors", "calibration.log_priors", calibration=pb.VoteCalibration(kappa=1.0, log_priors=[0.5])),
    bad("NaN prior", "calibration.log_priors", calibration=pb.VoteCalibration(kappa=1.0, log_priors=[0.5, math.nan])),
    bad("unknown end of the vote", "decided_by", decided_by=99),
    Bad(name="not UTF-8", raw=text_field(2, text_field(1, b"\xff")), field="panel.member"),
    Bad(name="no message", raw=b"\x07", field="message"),
    bad("over the limit", "message", TOO_LARGE, strategy="x" * MAX_MESSAGE_BYTES),
]


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with voting_running() as running:
        yield running


async def call(channel: grpc.aio.Channel, raw: bytes) -> vote_pb2.Decision:
    return pb.DecideResponse.FromString(await send(channel, DECIDE, raw, METADATA)).decision


@pytest.mark.parametrize("row", BAD, ids=lambda row: row.name)
async def test_a_bad_vote_is_refused_with_its_facts_and_the_next_one_is_decided(address: str, row: Bad) -> None:
    async with channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, row.raw)

        refusal = read_refusal(caught.value)
        assert (refusal.code, refusal.reason) == row.verdict
        check_facts(refusal, reason=row.verdict[1], field=row.field)
        assert (await call(channel, decide().SerializeToString())).answer == "yes"


async def test_no_ballot_at_all_is_unavailable_and_not_a_decision(address: str) -> None:
    async with channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, decide(ballots=[]).SerializeToString())

    refusal = read_refusal(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "QuorumError")
    assert (refusal.facts["num_cast"], refusal.facts["num_asked"]) == ("0", "2")


@pytest.mark.parametrize(
    ("ballots", "abstentions", "decided_by"),
    [
        ([A, B], [], vote_pb2.DECIDED_BY_ALL),
        ([A], [], vote_pb2.DECIDED_BY_DEADLINE),
        ([A], [vote_pb2.ABSTENTION_REASON_DEADLINE], vote_pb2.DECIDED_BY_DEADLINE),
        ([A], [vote_pb2.ABSTENTION_REASON_ERROR], vote_pb2.DECIDED_BY_ALL),
        ([A], [vote_pb2.ABSTENTION_REASON_CANCELLED], vote_pb2.DECIDED_BY_LOSSLESS_QUORUM),
    ],
)
async def test_the_decision_says_what_ended_the_vote(
    address: str,
    ballots: list[vote_pb2.Ballot],
    abstentions: list[vote_pb2.AbstentionReason.ValueType],
    decided_by: vote_pb2.DecidedBy.ValueType,
) -> None:
    silent = [vote_pb2.Abstention(member="b", reason=reason) for reason in abstentions]

    async with channel_to(address) as channel:
        decision = await call(channel, decide(ballots=ballots, abstentions=silent).SerializeToString())

    assert decision.decided_by == decided_by
    assert decision.asked_count == 2


QUESTION = Question(
    panel=tuple(Voter(member=member, family=f"family-{member}") for member in "abc"),
    quorum=Quorum(min_weight=0.9, min_families=2),
)
VOTES: tuple[Vote, ...] = (
    Ballot(member="b", text="the cat sat on the mat", latency_s=0.25),
    Ballot(member="a", text="the cat sat on a mat", completion_tokens=6),
    Abstention(member="c", reason=AbstentionReason.ERROR, detail="away"),
)


async def test_the_client_gets_the_decision_with_its_evidence(address: str) -> None:
    async with channels_open() as channels:
        client = GrpcVotingClient(build_caller(channels, FakeReplicaPicker(addresses=(address,))), secret=SECRET)

        decision = await client.decide("mbr", QUESTION, VOTES, decided_by=DecidedBy.ALL, timeout_s=20.0)

    assert decision.answer in {"the cat sat on the mat", "the cat sat on a mat"}
    assert (decision.strategy, decision.decided_by, decision.degraded) == ("mbr", DecidedBy.ALL, True)
    assert [ballot.family for ballot in decision.ballots] == ["family-a", "family-b"]
    assert [ballot.latency_s for ballot in decision.ballots] == [0.0, 0.25]
    assert [(absent.member, absent.detail) for absent in decision.abstentions] == [("c", "away")]


async def test_the_client_raises_the_services_own_errors(address: str) -> None:
    async with channels_open() as channels:
        client = GrpcVotingClient(build_caller(channels, FakeReplicaPicker(addresses=(address,))), secret=SECRET)

        with pytest.raises(UnknownNameError):
            await client.decide("dice", QUESTION, VOTES, decided_by=DecidedBy.ALL, timeout_s=20.0)
        with pytest.raises(QuorumError):
            await client.decide("mbr", QUESTION, VOTES[2:], decided_by=DecidedBy.DEADLINE, timeout_s=20.0)


@pytest.mark.parametrize("addresses", [(), (NOBODY,)])
async def test_a_service_that_is_away_is_an_error_of_its_own(addresses: tuple[str, ...]) -> None:
    async with channels_open() as channels:
        picker = FakeReplicaPicker(addresses=addresses)
        client = GrpcVotingClient(build_caller(channels, picker, pick_timeout_s=0.1), secret=SECRET)

        with pytest.raises(VotingUnavailableError):
            await client.decide("mbr", QUESTION, VOTES, decided_by=DecidedBy.ALL, timeout_s=1.0)


async def test_another_replica_decides_when_one_is_away(address: str) -> None:
    async with channels_open() as channels:
        picker = FakeReplicaPicker(addresses=(NOBODY, address))
        client = GrpcVotingClient(build_caller(channels, picker), secret=SECRET)

        decision = await client.decide("mbr", QUESTION, VOTES, decided_by=DecidedBy.ALL, timeout_s=20.0)

    assert decision.answer
    assert picker.picked == [NOBODY, address]
