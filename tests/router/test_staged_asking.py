"""Members that are asked in stages: who is asked when, and what the decision says of those who were not."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Literal

import pytest

from ensemble.errors import MemberError
from ensemble.router.request import QuorumOverrides, VoteOptions
from ensemble.voting.asking import AskPlan
from ensemble.voting.ballot import AbstentionReason
from ensemble.voting.calibrated import EnsembleCalibration, MemberCalibration, StrategyCalibration
from ensemble.voting.decision import DecidedBy
from ensemble.voting.record import VoteRecord, recount
from tests.fakes.member_client import FakeMemberClient
from tests.router.panels import LONG_S, NO, YES, ask_for_text, ask_yes_or_no, closed, hear_all, over

A_SECOND_S = 1.0
"""Of which the first of two stages has half: enough for members that answer at once."""
CASCADE = AskPlan(stages=(("a", "b"), ("c", "d", "e")), rule="cascade")
STAGED = AskPlan(stages=(("a", "b", "c"), ("d", "e")), rule="staged")


def members_saying(**probabilities: tuple[float, ...]) -> dict[str, FakeMemberClient]:
    """Make members that answer at once."""
    return {name: FakeMemberClient(probabilities=answer) for name, answer in probabilities.items()}


def calibrated(members: str, kappa: float) -> EnsembleCalibration:
    """Make a calibration that changes no ballot and no weight."""
    fitted = StrategyCalibration(weight_by_member=dict.fromkeys(members, 1.0), kappa=kappa, conformal_threshold=0.5)
    by_member = {member: MemberCalibration() for member in members}
    return EnsembleCalibration(digest="d", by_member=by_member, by_strategy={"weighted_vote": fitted})


async def test_a_first_stage_that_agrees_decides_and_the_others_are_never_asked() -> None:
    clients = members_saying(a=YES, b=YES, c=NO, d=NO, e=NO)

    decision = await over(clients, plan=CASCADE).build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert (decision.answer, decision.decided_by, decision.num_asked) == ("yes", DecidedBy.STAGE, 2)
    assert [ballot.member for ballot in decision.ballots] == ["a", "b"]
    assert decision.abstentions == ()
    assert all(clients[name].scorings == [] for name in "cde")


async def test_a_first_stage_that_disagrees_calls_the_next_one() -> None:
    clients = members_saying(a=YES, b=NO, c=NO, d=NO, e=YES)

    decision = await over(clients, plan=CASCADE).build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert decision.answer == "no"
    assert decision.num_asked == 5


async def test_the_next_stage_begins_only_when_the_one_before_is_complete() -> None:
    clients = members_saying(a=YES, b=NO, c=NO, d=NO, e=NO)
    clients["b"].gate = closed()
    router = over(clients, plan=CASCADE).build()

    async with asyncio.TaskGroup() as group:
        answering = group.create_task(router.classify(ask_yes_or_no(), timeout_s=LONG_S))
        await clients["a"].left.wait()
        were_asked_early = [clients[name].asked.is_set() for name in "cde"]
        clients["b"].gate.set()

    assert were_asked_early == [False, False, False]
    assert answering.result().answer == "no"


async def test_a_slow_reader_does_not_hold_up_the_next_stage() -> None:
    clients = members_saying(a=YES, b=NO, c=NO, d=NO, e=NO)
    router = over(clients, plan=CASCADE).build()

    async with aclosing(router.stream_classify(ask_yes_or_no(), timeout_s=LONG_S)) as events:
        await anext(events)
        await anext(events)
        await asyncio.wait_for(clients["c"].asked.wait(), LONG_S)


async def test_a_stage_that_decides_for_the_whole_panel_is_lossless_and_stops_its_own_members() -> None:
    clients = members_saying(a=YES, b=YES, c=NO, d=NO)
    plan = AskPlan(stages=(("a", "b", "c"), ("d",)), rule="staged")
    clients["c"].gate = closed()
    system = over(clients, plan=plan, weights={"a": 2.0, "b": 2.0})

    decision = await system.build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert (decision.answer, decision.decided_by) == ("yes", DecidedBy.LOSSLESS_QUORUM)
    assert [(one.member, one.reason) for one in decision.abstentions] == [("c", AbstentionReason.CANCELLED)]
    assert decision.num_asked == 3
    assert clients["d"].scorings == []


@pytest.mark.parametrize(("min_confidence", "num_asked", "decided_by"), [(0.6, 3, "stage"), (0.99, 5, "all")])
async def test_a_stage_is_enough_when_it_is_sure_enough(min_confidence: float, num_asked: int, decided_by: str) -> None:
    clients = members_saying(a=YES, b=YES, c=NO, d=NO, e=YES)
    plan = AskPlan(stages=STAGED.stages, rule="staged", min_confidence=min_confidence)
    system = over(clients, plan=plan, calibration=calibrated("abcde", kappa=1.0))

    decision = await system.build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert (decision.num_asked, decision.answer) == (num_asked, "yes")
    assert decision.decided_by in {decided_by, DecidedBy.LOSSLESS_QUORUM}
    assert decision.confidence == pytest.approx(1 / (1 + 2.718281828459045**-1.0))


async def test_a_label_set_is_told_for_the_whole_panel_alone() -> None:
    clients = members_saying(a=YES, b=YES, c=YES, d=YES, e=NO)
    router = over(clients, plan=CASCADE, calibration=calibrated("abcde", kappa=1.0)).build()

    staged = await router.classify(ask_yes_or_no(), timeout_s=LONG_S)
    whole = await router.classify(
        ask_yes_or_no(VoteOptions(quorum=QuorumOverrides(stop_early=False))), timeout_s=LONG_S
    )

    assert (staged.num_asked, staged.label_set) == (2, ())
    assert whole.label_set == ("yes",)


async def test_who_wants_every_ballot_gets_them_at_once() -> None:
    clients = members_saying(a=YES, b=YES, c=YES, d=YES, e=YES)
    clients["a"].gate = closed()
    router = over(clients, plan=CASCADE).build()
    everyone = VoteOptions(quorum=QuorumOverrides(stop_early=False))

    async with asyncio.TaskGroup() as group:
        answering = group.create_task(router.classify(ask_yes_or_no(everyone), timeout_s=LONG_S))
        await clients["e"].asked.wait()
        clients["a"].gate.set()

    assert (answering.result().num_asked, answering.result().decided_by) == (5, DecidedBy.ALL)


async def test_a_panel_of_the_request_keeps_the_order_of_the_stages() -> None:
    clients = members_saying(a=YES, b=NO, c=YES, d=NO, e=NO)
    plan = AskPlan(stages=(("d",), ("a", "e"), ("b", "c")), rule="cascade")
    router = over(clients, plan=plan).build()

    decision = await router.classify(ask_yes_or_no(VoteOptions(panel=("b", "d", "e"))), timeout_s=LONG_S)

    assert (decision.answer, decision.num_asked) == ("no", 2)
    assert [ballot.member for ballot in decision.ballots] == ["d", "e"]


async def test_a_member_that_fails_in_a_stage_is_no_agreement() -> None:
    clients = members_saying(a=YES, b=YES, c=NO, d=NO, e=NO)
    clients["b"].error = MemberError("b", "it broke")

    decision = await over(clients, plan=CASCADE).build().classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert (decision.answer, decision.num_asked) == ("no", 5)
    assert [one.member for one in decision.abstentions] == ["b"]


@pytest.mark.parametrize("rule", ["staged", "cascade"])
async def test_a_member_that_hangs_in_the_first_stage_does_not_keep_the_next_one_from_being_asked(
    rule: Literal["staged", "cascade"],
) -> None:
    clients = members_saying(a=YES, b=NO, c=NO)
    clients["a"].gate = closed()
    plan = AskPlan(stages=(("a",), ("b", "c")), rule=rule)

    decision = await over(clients, plan=plan).build().classify(ask_yes_or_no(), timeout_s=A_SECOND_S)

    assert decision.answer == "no"
    assert [ballot.member for ballot in decision.ballots] == ["b", "c"]
    assert [one.member for one in decision.abstentions] == ["a"]
    assert (decision.num_asked, decision.degraded) == (3, False)
    assert clients["a"].num_cancelled == 1


async def test_a_late_member_may_still_vote_while_the_next_stage_is_asked() -> None:
    clients = members_saying(a=YES, b=YES, c=NO, d=NO, e=NO)
    clients["b"].gate = closed()
    clients["c"].gate = closed()
    router = over(clients, plan=CASCADE).build()

    async with asyncio.TaskGroup() as group:
        vote = group.create_task(router.classify(ask_yes_or_no(), timeout_s=2 * A_SECOND_S))
        await clients["d"].asked.wait()
        clients["b"].gate.set()
        await clients["b"].left.wait()
        clients["c"].gate.set()

    assert {ballot.member for ballot in vote.result().ballots} >= {"a", "b", "d", "e"}
    assert vote.result().decided_by is not DecidedBy.DEADLINE


async def test_texts_that_have_no_choices_to_agree_on_are_asked_of_all_at_once() -> None:
    clients = {name: FakeMemberClient(text="one") for name in "abcde"}
    clients["a"].gate = closed()
    system = over(clients, plan=CASCADE)
    router = system.build()

    async with asyncio.TaskGroup() as group:
        group.create_task(router.generate(ask_for_text(VoteOptions(strategy="mbr")), timeout_s=LONG_S))
        await asyncio.wait_for(clients["e"].asked.wait(), LONG_S)
        clients["a"].gate.set()

    assert len(system.voting.calls[0].question.panel) == 5


async def test_short_answers_are_asked_in_stages() -> None:
    clients = {
        name: FakeMemberClient(text=text) for name, text in zip("abcde", ["4", "4.", "5", "5", "5"], strict=True)
    }

    decision = await over(clients, plan=CASCADE).build().generate(ask_for_text(), timeout_s=LONG_S)

    assert (decision.answer, decision.decided_by, decision.num_asked) == ("4", DecidedBy.STAGE, 2)


async def test_the_record_of_a_staged_vote_counts_to_the_same_decision() -> None:
    clients = members_saying(a=YES, b=YES, c=NO, d=NO, e=NO)
    router = over(clients, plan=CASCADE, calibration=calibrated("abcde", kappa=0.7)).build()

    events = await hear_all(router.stream_classify(ask_yes_or_no(VoteOptions(include_record=True)), timeout_s=LONG_S))

    record, decision = events[-2:]
    assert isinstance(record, VoteRecord)
    assert recount(record) == decision == record.decision
    assert [voter.member for voter in record.question.panel] == ["a", "b"]
