"""Votes by strategies that ask models about the texts, on their way through the router."""

from __future__ import annotations

import pytest

from ensemble.errors import InvalidRequestError, MemberError, MemberTimeoutError
from ensemble.router.request import VoteOptions
from ensemble.voting.strategy import SecondRound
from tests.fakes.member_client import FakeMemberClient
from tests.router.panels import LONG_S, RouterUnderTest, ask_for_text, build_ensemble

TEXTS = {"a": "the sea is blue", "b": "the sea is wide", "c": "the sea is blue"}


def with_assistant(assistant: FakeMemberClient) -> RouterUnderTest:
    """Put three members that write and one that does not vote behind a router."""
    writers = {name: FakeMemberClient(text=text) for name, text in TEXTS.items()}
    ensemble = build_ensemble(
        list(writers),
        assistant_by_round={SecondRound.EMBED: "helper", SecondRound.FUSE: "helper", SecondRound.JUDGE: "helper"},
    )
    return RouterUnderTest(clients=writers | {"helper": assistant}, ensemble=ensemble)


async def test_the_assistant_sees_the_texts_and_the_voting_service_its_evidence() -> None:
    helper = FakeMemberClient(text="the sea is blue and wide")
    system = with_assistant(helper)

    await system.build().generate(ask_for_text(VoteOptions(strategy="fuse")), timeout_s=LONG_S)

    (call,) = system.voting.calls
    assert call.question.evidence is not None
    assert call.question.evidence.fused == "the sea is blue and wide"
    assert call.question.evidence.texts == ("the sea is blue", "the sea is wide")
    assert all(text in helper.generations[0].prompt for text in TEXTS.values())
    assert [vote.member for vote in call.votes] == ["a", "b", "c"]


async def test_members_leave_time_for_the_second_round_and_that_leaves_some_for_the_count() -> None:
    helper = FakeMemberClient(vectors=((1.0, 0.0), (0.0, 1.0)))
    system = with_assistant(helper)

    await system.build().generate(ask_for_text(VoteOptions(strategy="mbr_embedding")), timeout_s=20.0)

    assert system.clients["a"].timeouts_s == pytest.approx([10.0], abs=0.5)
    assert helper.timeouts_s == pytest.approx([16.0], abs=0.5)


async def test_an_assistant_that_fails_fails_the_request_by_name() -> None:
    helper = FakeMemberClient(error=MemberTimeoutError("helper", "it slept"))
    system = with_assistant(helper)

    with pytest.raises(MemberError, match="helper"):
        await system.build().generate(ask_for_text(VoteOptions(strategy="fuse")), timeout_s=LONG_S)

    assert system.observer.failures == [("default", "MemberTimeoutError")]


async def test_a_strategy_without_its_assistant_is_refused_before_anybody_is_asked() -> None:
    writers = {name: FakeMemberClient(text=text) for name, text in TEXTS.items()}
    router = RouterUnderTest(clients=writers, ensemble=build_ensemble(list(writers))).build()

    with pytest.raises(InvalidRequestError, match="fuse"):
        await router.generate(ask_for_text(VoteOptions(strategy="fuse")), timeout_s=LONG_S)

    assert all(writer.generations == [] for writer in writers.values())
