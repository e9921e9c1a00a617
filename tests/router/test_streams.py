from __future__ import annotations

from contextlib import aclosing

from ensemble.errors import MemberError
from ensemble.router.request import QuorumOverrides, TextPiece, VoteOptions
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot
from ensemble.voting.decision import DecidedBy, Decision
from tests.fakes.member_client import FakeMemberClient
from tests.router.panels import LONG_S, NO, YES, ask_for_text, ask_yes_or_no, closed, hear_all, over


async def test_a_stream_tells_ballots_as_they_come_and_the_decision_last() -> None:
    clients = {
        "a": FakeMemberClient(probabilities=YES),
        "dead": FakeMemberClient(error=MemberError("dead", "broken")),
        "b": FakeMemberClient(probabilities=NO),
    }
    everyone = VoteOptions(quorum=QuorumOverrides(stop_early=False))

    events = await hear_all(over(clients).build().stream_classify(ask_yes_or_no(everyone), timeout_s=LONG_S))

    told = {(type(event), getattr(event, "member", "")) for event in events[:-1]}
    assert told == {(Ballot, "a"), (Abstention, "dead"), (Ballot, "b")}
    assert isinstance(events[-1], Decision)
    assert sum(isinstance(event, Decision) for event in events) == 1


async def test_a_stream_tells_votes_as_they_were_counted() -> None:
    clients = {"a": FakeMemberClient(text="The answer is: Paris."), "mute": FakeMemberClient(text="   ")}
    everyone = VoteOptions(quorum=QuorumOverrides(stop_early=False))

    events = await hear_all(over(clients).build().stream_generate(ask_for_text(everyone), timeout_s=LONG_S))

    votes: dict[str, Ballot | Abstention] = {
        event.member: event for event in events if isinstance(event, Ballot | Abstention)
    }
    decision = events[-1]
    assert isinstance(decision, Decision)
    assert tuple(votes[ballot.member] for ballot in decision.ballots) == decision.ballots
    assert tuple(votes[silence.member] for silence in decision.abstentions) == decision.abstentions
    assert isinstance(votes["mute"], Abstention)


async def test_a_stream_tells_who_was_stopped_before_the_decision() -> None:
    clients = {
        "a": FakeMemberClient(probabilities=YES),
        "b": FakeMemberClient(probabilities=YES),
        "late": FakeMemberClient(probabilities=NO, gate=closed()),
    }

    *_, stopped, decision = await hear_all(over(clients).build().stream_classify(ask_yes_or_no(), timeout_s=LONG_S))

    assert isinstance(stopped, Abstention)
    assert (stopped.member, stopped.reason) == ("late", AbstentionReason.CANCELLED)
    assert isinstance(decision, Decision)
    assert decision.decided_by is DecidedBy.LOSSLESS_QUORUM


async def test_pieces_of_every_member_come_in_order_and_make_its_ballot() -> None:
    clients = {"a": FakeMemberClient(text="one two three"), "b": FakeMemberClient(text="one two four")}
    everyone = VoteOptions(quorum=QuorumOverrides(stop_early=False))

    events = await hear_all(over(clients).build().stream_generate(ask_for_text(everyone), timeout_s=LONG_S))

    for member, client in clients.items():
        pieces = [event.text for event in events if isinstance(event, TextPiece) and event.member == member]
        (ballot,) = [event for event in events if isinstance(event, Ballot) and event.member == member]
        assert pieces == client.text.replace(" ", " \0").split("\0")
        assert (ballot.text, ballot.completion_tokens, ballot.logprob) == (client.text, 3, -0.5)


async def test_members_are_stopped_before_a_slow_reader_hears_the_deciding_ballot() -> None:
    clients = {
        "a": FakeMemberClient(probabilities=YES),
        "late": FakeMemberClient(probabilities=NO, gate=closed()),
    }
    router = over(clients, weights={"a": 3.0}).build()

    async with aclosing(router.stream_classify(ask_yes_or_no(), timeout_s=LONG_S)) as events:
        deciding = await anext(events)
        await clients["late"].left.wait()

    assert isinstance(deciding, Ballot)
    assert clients["late"].num_cancelled == 1


async def test_the_streamed_decision_is_the_one_that_is_observed() -> None:
    system = over({"a": FakeMemberClient(text="one")})

    events = await hear_all(system.build().stream_generate(ask_for_text(), timeout_s=LONG_S))

    assert system.observer.decisions == [("default", events[-1])]
    assert len(system.observer.latencies_s) == 1
