from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from ensemble.errors import MemberError, MemberRefusedError, MemberTimeoutError, MemberUnavailableError
from ensemble.router.fan_out import MAX_UNREAD, Ask, FanOut, Hear
from ensemble.router.request import TextPiece
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote

LONG_S = 60.0


def votes_when(gate: asyncio.Event, member: str, left: list[str] | None = None) -> Ask:
    """Vote once the gate is open; note in ``left`` that the ask is over, whatever ended it."""

    async def ask(_hear: Hear) -> Ballot:
        try:
            await gate.wait()
            return Ballot(member=member, choice="yes")
        finally:
            if left is not None:
                await asyncio.sleep(0)  # Letting go takes a turn of the loop, as closing a call does.
                left.append(member)

    return ask


def fails_with(error: BaseException) -> Ask:
    async def ask(_hear: Hear) -> Ballot:
        raise error

    return ask


def talks(member: str, num_pieces: int) -> Ask:
    async def ask(hear: Hear) -> Ballot:
        for index in range(num_pieces):
            await hear(TextPiece(member=member, text=str(index)))
        return Ballot(member=member, text="done")

    return ask


async def hear_everything(fan_out: FanOut, *, timeout_s: float = LONG_S) -> list[Vote | TextPiece]:
    async with aclosing(fan_out.events(timeout_s=timeout_s)) as events:
        return [event async for event in events if event is not None]


async def test_a_call_that_is_cut_off_from_outside_is_an_abstention() -> None:
    async with FanOut({"a": fails_with(asyncio.CancelledError())}) as fan_out:
        (vote,) = await hear_everything(fan_out)

    assert isinstance(vote, Abstention)
    assert (vote.reason, vote.detail) == (AbstentionReason.ERROR, "its call was cut off")


async def test_votes_come_in_the_order_of_arrival() -> None:
    gates = {member: asyncio.Event() for member in "abc"}
    heard: list[str] = []

    async with FanOut({member: votes_when(gate, member) for member, gate in gates.items()}) as fan_out:
        gates["c"].set()
        async for event in fan_out.events(timeout_s=LONG_S):
            assert event is not None
            heard.append(event.member)
            if event.member == "c":
                gates["a"].set()
            if event.member == "a":
                gates["b"].set()

    assert heard == ["c", "a", "b"]


async def test_leaving_cancels_those_still_out_and_waits_until_they_are_gone() -> None:
    left: list[str] = []
    never = asyncio.Event()

    async with FanOut({member: votes_when(never, member, left) for member in "ab"}):
        await asyncio.sleep(0)

    assert sorted(left) == ["a", "b"]


async def test_leaving_by_an_error_cancels_too_and_passes_the_error_on() -> None:
    left: list[str] = []

    async def ask_and_fail() -> None:
        async with FanOut({"a": votes_when(asyncio.Event(), "a", left)}):
            await asyncio.sleep(0)
            raise LookupError

    with pytest.raises(LookupError):
        await ask_and_fail()

    assert left == ["a"]


async def test_stopped_members_abstain_for_the_reason_given_and_the_others_go_on() -> None:
    left: list[str] = []
    gate, never = asyncio.Event(), asyncio.Event()

    async with FanOut({"a": votes_when(never, "a", left), "b": votes_when(gate, "b")}) as fan_out:
        await asyncio.sleep(0)
        abstentions = fan_out.stop(("a",), reason=AbstentionReason.CANCELLED)
        gate.set()
        async with aclosing(fan_out.events(timeout_s=LONG_S)) as events:
            first = await anext(events)
        left_before_the_end = list(left)

    assert [(abstention.member, abstention.reason) for abstention in abstentions] == [("a", AbstentionReason.CANCELLED)]
    assert first == Ballot(member="b", choice="yes")
    assert left_before_the_end == ["a"]


async def test_a_slow_reader_loses_no_piece_and_holds_the_member_up() -> None:
    num_pieces = MAX_UNREAD * 2
    heard: list[Vote | TextPiece] = []
    sent: list[int] = []

    async def ask(hear: Hear) -> Ballot:
        for index in range(num_pieces):
            await hear(TextPiece(member="a", text=str(index)))
            sent.append(index)
        return Ballot(member="a", text="done")

    async with FanOut({"a": ask}) as fan_out:
        for _ in range(num_pieces):
            await asyncio.sleep(0)
        num_sent_unread = len(sent)
        heard = await hear_everything(fan_out)

    assert num_sent_unread == MAX_UNREAD
    pieces = [event.text for event in heard if isinstance(event, TextPiece)]
    assert pieces == [str(index) for index in range(num_pieces)]
    assert heard[-1] == Ballot(member="a", text="done")


async def test_time_over_ends_the_events_with_what_was_said() -> None:
    async with FanOut({"a": talks("a", 1), "b": votes_when(asyncio.Event(), "b")}) as fan_out:
        heard = await hear_everything(fan_out, timeout_s=0.05)

    assert [type(event) for event in heard] == [TextPiece, Ballot]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemberTimeoutError("a", "late"), AbstentionReason.DEADLINE),
        (MemberRefusedError("a", "too long"), AbstentionReason.REFUSAL),
        (MemberUnavailableError("a", "away"), AbstentionReason.ERROR),
        (MemberError("a", "broken"), AbstentionReason.ERROR),
    ],
)
async def test_a_members_error_becomes_an_abstention_with_its_reason(
    error: MemberError, reason: AbstentionReason
) -> None:
    async with FanOut({"a": fails_with(error)}) as fan_out:
        heard = await hear_everything(fan_out)

    (abstention,) = heard
    assert isinstance(abstention, Abstention)
    assert (abstention.member, abstention.reason, abstention.detail) == ("a", reason, error.problem)


async def test_a_bug_in_an_ask_surfaces_at_once_and_is_no_abstention() -> None:
    async def ask_and_leave() -> None:
        async with FanOut({"a": fails_with(ZeroDivisionError()), "b": votes_when(asyncio.Event(), "b")}) as fan_out:
            await hear_everything(fan_out)

    with pytest.RaisesGroup(ZeroDivisionError):
        await asyncio.wait_for(ask_and_leave(), timeout=5.0)
