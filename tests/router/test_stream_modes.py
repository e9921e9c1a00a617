"""Streams that tell one text alone: the leader's, and that of whoever begins first."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from ensemble.errors import InvalidRequestError, MemberError, QuorumError
from ensemble.router.request import Event, StreamMode, TextPiece, VoteOptions
from ensemble.voting.ballot import Abstention, AbstentionReason
from ensemble.voting.calibrated import EnsembleCalibration, MemberCalibration, StrategyCalibration
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.record import VoteRecord, recount
from ensemble.voting.strategy import Certificate
from tests.fakes.member_client import FakeMemberClient
from tests.router.panels import LONG_S, RouterUnderTest, ask_for_text, closed, hear_all, over

HALF_A_SECOND_S = 0.5
PARIS, ROME = "It is Paris", "It is Rome"


async def hear(system: RouterUnderTest, mode: StreamMode, *, timeout_s: float = LONG_S) -> list[Event]:
    return await hear_all(system.build().stream_generate(ask_for_text(), timeout_s=timeout_s, mode=mode))


def told(events: list[Event]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for event in events:
        if isinstance(event, TextPiece):
            texts[event.member] = texts.get(event.member, "") + event.text
    return texts


def decision_of(events: list[Event]) -> Decision:
    assert isinstance(events[-1], Decision)
    return events[-1]


async def test_the_leader_of_the_largest_weight_is_streamed_and_confirmed() -> None:
    clients = {name: FakeMemberClient(text=PARIS) for name in "abc"}

    events = await hear(over(clients, weights={"b": 1.5}), StreamMode.LEADER)

    decision = decision_of(events)
    assert told(events) == {"b": PARIS}
    assert (decision.streamed_member, decision.replaces_stream) == ("b", False)


async def test_a_panel_against_its_leader_replaces_what_was_streamed() -> None:
    clients = {"a": FakeMemberClient(text=PARIS), "b": FakeMemberClient(text=ROME), "c": FakeMemberClient(text=ROME)}

    events = await hear(over(clients), StreamMode.LEADER)

    decision = decision_of(events)
    assert told(events) == {"a": PARIS}
    assert "rome" in decision.answer
    assert (decision.streamed_member, decision.replaces_stream) == ("a", True)


async def test_a_decided_vote_stops_the_others_and_lets_the_leader_end() -> None:
    clients = {
        "a": FakeMemberClient(text=PARIS, gate=closed()),
        "b": FakeMemberClient(text=ROME),
        "c": FakeMemberClient(text=ROME),
        "d": FakeMemberClient(text=ROME),
        "late": FakeMemberClient(text=ROME, gate=closed()),
    }

    async def let_the_leader_end() -> None:
        await clients["late"].left.wait()
        clients["a"].gate.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(let_the_leader_end())
        events = await hear(over(clients), StreamMode.LEADER)

    decision = decision_of(events)
    assert told(events) == {"a": PARIS}
    assert decision.decided_by is DecidedBy.LOSSLESS_QUORUM
    assert [ballot.member for ballot in decision.ballots] == ["a", "b", "c", "d"]
    assert [(one.member, one.reason) for one in decision.abstentions] == [("late", AbstentionReason.CANCELLED)]
    assert clients["a"].num_cancelled == 0


async def test_a_leader_that_fails_is_replaced() -> None:
    clients = {
        "a": FakeMemberClient(text=PARIS, error=MemberError("a", "broken")),
        "b": FakeMemberClient(text=ROME),
        "c": FakeMemberClient(text=ROME),
    }

    decision = decision_of(await hear(over(clients), StreamMode.LEADER))

    assert [one.member for one in decision.abstentions] == ["a"]
    assert (decision.streamed_member, decision.replaces_stream) == ("a", True)


async def test_a_leader_that_is_late_does_not_hold_up_the_deadline() -> None:
    clients = {"a": FakeMemberClient(text=PARIS, gate=closed()), "b": FakeMemberClient(text=ROME)}

    decision = decision_of(await hear(over(clients), StreamMode.LEADER, timeout_s=HALF_A_SECOND_S))

    assert [(one.member, one.reason) for one in decision.abstentions] == [("a", AbstentionReason.DEADLINE)]
    assert decision.replaces_stream
    assert clients["a"].num_cancelled == 1


async def test_the_text_that_begins_first_is_taken_and_the_others_are_stopped() -> None:
    clients = {
        "slow": FakeMemberClient(text="Rome", gate=closed()),
        "quick": FakeMemberClient(text=PARIS),
        "mute": FakeMemberClient(text="Oslo", gate=closed()),
    }

    events = await hear(over(clients), StreamMode.FIRST_TOKEN_HEDGE)

    decision = decision_of(events)
    assert told(events) == {"quick": PARIS}
    assert decision.decided_by is DecidedBy.FIRST_TOKEN
    assert [ballot.member for ballot in decision.ballots] == ["quick"]
    assert {(one.member, one.reason) for one in decision.abstentions} == {
        ("slow", AbstentionReason.CANCELLED),
        ("mute", AbstentionReason.CANCELLED),
    }
    assert (decision.streamed_member, decision.replaces_stream, decision.degraded) == ("quick", False, True)
    assert (clients["slow"].num_cancelled, clients["mute"].num_cancelled) == (1, 1)


async def test_those_who_lost_a_race_are_stopped_before_a_slow_reader_hears_the_first_piece() -> None:
    clients = {"slow": FakeMemberClient(text="Rome", gate=closed()), "quick": FakeMemberClient(text=PARIS)}
    router = over(clients).build()
    stream = router.stream_generate(ask_for_text(), timeout_s=LONG_S, mode=StreamMode.FIRST_TOKEN_HEDGE)

    async with aclosing(stream) as events:
        first = await anext(events)
        await clients["slow"].left.wait()

    assert isinstance(first, TextPiece)
    assert clients["slow"].num_cancelled == 1


async def test_a_race_whose_winner_never_ends_runs_into_its_deadline() -> None:
    clients = {"a": FakeMemberClient(text=PARIS, gate=closed()), "b": FakeMemberClient(text="Rome", gate=closed())}

    with pytest.raises(QuorumError):
        await hear(over(clients), StreamMode.FIRST_TOKEN_HEDGE, timeout_s=HALF_A_SECOND_S)

    await asyncio.sleep(0)
    assert all(client.num_cancelled == 1 for client in clients.values())


async def test_a_member_that_fails_before_its_first_piece_does_not_win() -> None:
    clients = {
        "broken": FakeMemberClient(text="Rome", error=MemberError("broken", "it is")),
        "sound": FakeMemberClient(text=PARIS),
    }

    events = await hear(over(clients), StreamMode.FIRST_TOKEN_HEDGE)

    assert told(events) == {"sound": PARIS}
    assert any(isinstance(event, Abstention) and event.member == "broken" for event in events)


async def test_an_ensemble_that_fails_without_its_quorum_holds_no_race() -> None:
    clients = {"a": FakeMemberClient(text=PARIS)}

    with pytest.raises(InvalidRequestError) as caught:
        await hear(over(clients, fail_without_quorum=True), StreamMode.FIRST_TOKEN_HEDGE)

    assert caught.value.field == "mode"


async def test_votes_on_their_way_when_their_members_are_stopped_count_no_more() -> None:
    names = "bcdefgh"
    clients = {"a": FakeMemberClient(text=PARIS, gate=closed())}
    clients |= {name: FakeMemberClient(text=ROME, gate=closed()) for name in names}

    async def let_them_answer_at_once() -> None:
        for name in names:
            await clients[name].asked.wait()
        for name in names:
            clients[name].gate.set()
        for name in names:
            await clients[name].left.wait()
        clients["a"].gate.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(let_them_answer_at_once())
        events = await hear(over(clients), StreamMode.LEADER)

    decision = decision_of(events)
    assert "rome" in decision.answer
    assert len(decision.ballots) + len(decision.abstentions) == len(clients)


async def test_white_space_wins_no_race_and_is_not_told() -> None:
    clients = {"blank": FakeMemberClient(text="\n"), "sound": FakeMemberClient(text=PARIS)}

    events = await hear(over(clients), StreamMode.FIRST_TOKEN_HEDGE)

    assert told(events) == {"sound": PARIS}
    assert decision_of(events).streamed_member == "sound"


async def test_a_leader_that_wrote_nothing_is_not_said_to_have_been_streamed() -> None:
    clients = {
        "a": FakeMemberClient(text="Paris", error=MemberError("a", "broken")),
        "b": FakeMemberClient(text=ROME),
        "c": FakeMemberClient(text=ROME),
    }

    decision = decision_of(await hear(over(clients), StreamMode.LEADER))

    assert (decision.streamed_member, decision.replaces_stream) == ("", False)


async def test_a_leader_that_is_heard_last_makes_the_vote_one_of_all() -> None:
    clients = {
        "a": FakeMemberClient(text=PARIS, gate=closed()),
        "b": FakeMemberClient(text=ROME),
        "c": FakeMemberClient(text=ROME),
    }

    async def let_the_leader_end() -> None:
        await clients["b"].left.wait()
        await clients["c"].left.wait()
        clients["a"].gate.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(let_the_leader_end())
        events = await hear(over(clients), StreamMode.LEADER)

    assert decision_of(events).decided_by is DecidedBy.ALL


async def test_a_certificate_does_not_end_a_vote_whose_leader_is_streamed() -> None:
    certificate = Certificate(
        backers=frozenset("b"), others=frozenset(), min_margin=0.0, num_items=300, num_disagreements=0, bound=0.01
    )
    fitted = StrategyCalibration(weight_by_member=dict.fromkeys("abc", 1.0), kappa=1.0, certificates=(certificate,))
    calibration = EnsembleCalibration(
        digest="d",
        by_member=dict.fromkeys("abc", MemberCalibration()),
        by_strategy={"majority": fitted},
        has_choices=False,
    )
    clients = {name: FakeMemberClient(text=PARIS if name == "a" else ROME) for name in "abc"}

    decision = decision_of(await hear(over(clients, calibration=calibration), StreamMode.LEADER))

    assert decision.decided_by is not DecidedBy.RISK_QUORUM
    assert "rome" in decision.answer


@pytest.mark.parametrize("mode", [StreamMode.LEADER, StreamMode.FIRST_TOKEN_HEDGE])
async def test_the_record_of_one_stream_counts_to_its_decision(mode: StreamMode) -> None:
    clients = {"a": FakeMemberClient(text=PARIS), "b": FakeMemberClient(text=ROME), "c": FakeMemberClient(text=ROME)}
    request = ask_for_text(VoteOptions(include_record=True))

    *_, record, decision = await hear_all(over(clients).build().stream_generate(request, timeout_s=LONG_S, mode=mode))

    assert isinstance(record, VoteRecord)
    assert record.decision == decision
    assert recount(record) == decision
