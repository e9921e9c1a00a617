from __future__ import annotations

import asyncio

import pytest

from ensemble.errors import (
    InvalidRequestError,
    MemberError,
    MemberRefusedError,
    MemberTimeoutError,
    MemberUnavailableError,
    QuorumError,
    UnknownNameError,
    VotingUnavailableError,
)
from ensemble.generation import FinishReason
from ensemble.router.config import LimitsConfig
from ensemble.router.request import ClassifyRequest, QuorumOverrides, VoteOptions
from ensemble.voting.ballot import AbstentionReason
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.strategy import Quorum
from tests.fakes.member_client import FakeMemberClient
from tests.fakes.voting_client import FakeVotingClient
from tests.router.panels import (
    LONG_S,
    NO,
    SHORT_S,
    YES,
    RouterUnderTest,
    answer_in_order,
    ask_for_text,
    ask_yes_or_no,
    build_ensemble,
    closed,
    over,
)


def reasons(decision: Decision) -> dict[str, AbstentionReason]:
    return {abstention.member: abstention.reason for abstention in decision.abstentions}


async def test_a_vote_that_is_decided_cancels_those_still_out() -> None:
    clients = {
        "a": FakeMemberClient(probabilities=YES),
        "b": FakeMemberClient(probabilities=YES),
        "late": FakeMemberClient(probabilities=NO, gate=closed()),
    }
    system = over(clients)

    decision = await system.build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert (decision.answer, decision.decided_by) == ("yes", DecidedBy.LOSSLESS_QUORUM)
    assert reasons(decision) == {"late": AbstentionReason.CANCELLED}
    assert (clients["late"].num_cancelled, clients["late"].num_under_way) == (1, 0)
    assert decision.num_asked == 3


async def test_waiting_for_everyone_asks_the_same_and_answers_the_same() -> None:
    clients = {
        name: FakeMemberClient(probabilities=YES if name in "ab" else NO, gate=closed()) for name in ("a", "b", "c")
    }
    everyone = VoteOptions(quorum=QuorumOverrides(stop_early=False))

    async with asyncio.TaskGroup() as group:
        group.create_task(answer_in_order(tuple(clients.values())))
        decision = await over(clients).build().classify(ask_yes_or_no(everyone), timeout_s=LONG_S)

    assert (decision.answer, decision.decided_by) == ("yes", DecidedBy.ALL)
    assert [ballot.member for ballot in decision.ballots] == ["a", "b", "c"]
    assert [client.num_cancelled for client in clients.values()] == [0, 0, 0]


async def test_a_member_that_is_too_late_abstains_and_the_rest_decide() -> None:
    clients = {
        "a": FakeMemberClient(probabilities=YES),
        "late": FakeMemberClient(probabilities=NO, gate=closed()),
    }

    decision = await over(clients).build().classify(ask_yes_or_no(), timeout_s=SHORT_S)

    assert (decision.answer, decision.decided_by) == ("yes", DecidedBy.DEADLINE)
    assert reasons(decision) == {"late": AbstentionReason.DEADLINE}
    assert clients["late"].num_cancelled == 1


async def test_members_get_less_time_than_the_client_gave_and_never_more_than_the_limit() -> None:
    clients = {"a": FakeMemberClient(probabilities=YES)}
    limits = LimitsConfig(member_timeout_s=30.0)
    router = RouterUnderTest(clients=clients, ensemble=build_ensemble(["a"]), limits=limits).build()

    for timeout_s in (4.0, 20.0, LONG_S):
        await router.classify(ask_yes_or_no(), timeout_s=timeout_s)

    assert clients["a"].timeouts_s == pytest.approx([3.6, 19.5, 30.0], abs=0.3)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemberUnavailableError("dead", "its replica is away"), AbstentionReason.ERROR),
        (MemberError("dead", "its engine failed"), AbstentionReason.ERROR),
        (MemberTimeoutError("dead", "no answer"), AbstentionReason.DEADLINE),
        (MemberRefusedError("dead", "the prompt is too long"), AbstentionReason.REFUSAL),
    ],
)
async def test_a_member_that_fails_abstains_with_the_reason_and_the_detail(
    error: MemberError, reason: AbstentionReason
) -> None:
    clients = {
        "dead": FakeMemberClient(error=error),
        "a": FakeMemberClient(probabilities=NO),
        "b": FakeMemberClient(probabilities=NO),
    }
    everyone = VoteOptions(quorum=QuorumOverrides(stop_early=False))

    decision = await over(clients).build().classify(ask_yes_or_no(everyone), timeout_s=LONG_S)

    assert decision.answer == "no"
    assert reasons(decision) == {"dead": reason}
    assert decision.abstentions[0].detail == error.problem


@pytest.mark.parametrize("logprobs", [(0.5,), (0.2, 0.3, 0.5)])
async def test_scores_that_do_not_fit_the_choices_make_an_abstention_not_a_vote(logprobs: tuple[float, ...]) -> None:
    clients = {"odd": FakeMemberClient(probabilities=logprobs), "a": FakeMemberClient(probabilities=NO)}

    decision = await over(clients).build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert decision.answer == "no"
    assert reasons(decision) == {"odd": AbstentionReason.ERROR}


async def test_an_aborted_completion_is_an_abstention_not_a_vote_for_its_beginning() -> None:
    clients = {
        "cut": FakeMemberClient(text="Par", finish_reason=FinishReason.ABORT),
        "a": FakeMemberClient(text="Paris"),
    }

    decision = await over(clients).build().generate(ask_for_text(), timeout_s=LONG_S)

    assert decision.answer == "paris"
    assert reasons(decision) == {"cut": AbstentionReason.ERROR}


async def test_nobody_answering_is_an_error_that_names_everyones_reason() -> None:
    clients = {
        "dead": FakeMemberClient(error=MemberUnavailableError("dead", "away")),
        "late": FakeMemberClient(probabilities=YES, gate=closed()),
    }
    system = over(clients)

    with pytest.raises(QuorumError) as caught:
        await system.build().classify(ask_yes_or_no(), timeout_s=SHORT_S)

    assert caught.value.facts == {
        "ensemble": "default",
        "num_cast": "0",
        "num_asked": "2",
        "reasons": "dead: error, late: deadline",
    }
    assert system.observer.failures == [("default", "QuorumError")]


async def test_faults_come_first_in_what_is_told_of_a_missed_quorum() -> None:
    clients = {
        "shy": FakeMemberClient(error=MemberRefusedError("shy", "too long")),
        "dead": FakeMemberClient(error=MemberUnavailableError("dead", "away")),
    }

    with pytest.raises(QuorumError) as caught:
        await over(clients).build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert caught.value.reasons == "dead: error, shy: refusal"


async def test_a_quorum_that_is_missed_marks_the_decision_as_degraded() -> None:
    clients = {
        "dead": FakeMemberClient(error=MemberError("dead", "broken")),
        "a": FakeMemberClient(probabilities=YES),
    }
    system = over(clients, weights={"dead": 3.0, "a": 1.0})

    decision = await system.build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert (decision.answer, decision.degraded) == ("yes", True)
    assert system.observer.decisions == [("default", decision)]


async def test_a_quorum_that_is_missed_is_an_error_where_the_ensemble_says_so() -> None:
    clients = {
        "dead": FakeMemberClient(error=MemberError("dead", "broken")),
        "a": FakeMemberClient(probabilities=YES),
    }
    system = over(clients, weights={"dead": 3.0, "a": 1.0}, fail_without_quorum=True)

    with pytest.raises(QuorumError) as caught:
        await system.build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert (caught.value.num_cast, caught.value.num_asked) == (1, 2)


async def test_a_heavy_strategy_is_decided_by_the_voting_service_in_the_time_that_is_left() -> None:
    clients = {"a": FakeMemberClient(text="one"), "b": FakeMemberClient(text="two")}
    system = over(clients)

    decision = await system.build().generate(ask_for_text(VoteOptions(strategy="mbr")), timeout_s=10.0)

    (call,) = system.voting.calls
    assert (call.strategy, decision.answer) == ("mbr", "one")
    assert [vote.member for vote in call.votes] == ["a", "b"]
    assert [voter.member for voter in call.question.panel] == ["a", "b"]
    assert 0.0 < call.timeout_s <= 10.0
    assert clients["a"].timeouts_s == pytest.approx([7.0], abs=0.5)


async def test_a_late_member_leaves_the_voting_service_its_share_of_the_time() -> None:
    clients = {"a": FakeMemberClient(text="one"), "late": FakeMemberClient(text="two", gate=closed())}
    system = over(clients)

    await system.build().generate(ask_for_text(VoteOptions(strategy="mbr")), timeout_s=1.0)

    (call,) = system.voting.calls
    assert 0.001 < call.timeout_s <= 0.3
    assert [getattr(vote, "reason", None) for vote in call.votes] == [None, AbstentionReason.DEADLINE]


async def test_a_voting_service_that_is_away_is_an_error_of_its_own() -> None:
    system = RouterUnderTest(
        clients={"a": FakeMemberClient(text="one")},
        ensemble=build_ensemble(["a"]),
        voting=FakeVotingClient(error=VotingUnavailableError("away")),
    )

    with pytest.raises(VotingUnavailableError):
        await system.build().generate(ask_for_text(VoteOptions(strategy="mbr")), timeout_s=LONG_S)

    assert system.observer.failures == [("default", "VotingUnavailableError")]


async def test_a_degraded_decision_of_the_voting_service_fails_where_the_ensemble_says_so() -> None:
    system = RouterUnderTest(
        clients={"a": FakeMemberClient(text="one")},
        ensemble=build_ensemble(["a"], fail_without_quorum=True),
        voting=FakeVotingClient(is_degraded=True),
    )

    with pytest.raises(QuorumError):
        await system.build().generate(ask_for_text(VoteOptions(strategy="mbr")), timeout_s=LONG_S)


async def test_an_unknown_ensemble_names_those_there_are() -> None:
    router = over({"a": FakeMemberClient(probabilities=YES)}).build()
    request = ClassifyRequest(request_id="r", ensemble="other", prompt="?", choices=("yes", "no"))

    with pytest.raises(UnknownNameError) as caught:
        await router.classify(request, timeout_s=LONG_S)

    assert (caught.value.field, caught.value.remedy) == ("ensemble", "use one of: default")


@pytest.mark.parametrize(("strategy", "field"), [("mbr", "options.strategy"), ("soft_voting", "options.strategy")])
async def test_a_strategy_that_cannot_vote_on_this_is_refused_by_its_fields_name(strategy: str, field: str) -> None:
    clients = {"a": FakeMemberClient(probabilities=YES)}
    system = over(clients)

    with pytest.raises(InvalidRequestError) as caught:
        await system.build().classify(ask_yes_or_no(VoteOptions(strategy=strategy)), timeout_s=LONG_S)

    assert caught.value.field == field
    assert clients["a"].scorings == []


async def test_requests_ask_and_answer_at_the_same_time_without_mixing() -> None:
    clients = {"a": FakeMemberClient(probabilities=YES, gate=closed()), "b": FakeMemberClient(probabilities=YES)}
    router = over(clients, quorum=Quorum(stop_early=False)).build()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(router.classify(ask_yes_or_no(), timeout_s=LONG_S)) for _ in range(20)]
        await clients["a"].asked.wait()
        clients["a"].gate.set()

    assert {task.result().answer for task in tasks} == {"yes"}
    assert len(clients["a"].scorings) == 20
