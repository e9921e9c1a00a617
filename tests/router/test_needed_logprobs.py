"""Texts' log-probabilities cost members time, so they are asked for only where somebody reads them."""

from __future__ import annotations

import pytest

from ensemble.router.request import StreamMode, VoteOptions
from ensemble.voting.ballot import Ballot
from tests.fakes.member_client import LOGPROB_PER_TOKEN, FakeMemberClient
from tests.router.panels import LONG_S, ask_for_text, hear_all, over


async def test_a_panel_of_one_is_asked_for_none_and_answers_as_before() -> None:
    one, other = FakeMemberClient(text="ants swarm"), FakeMemberClient(text="bees swarm")
    router = over({"one": one, "other": other}).build()

    whole = await router.generate(ask_for_text(VoteOptions(panel=("one",))), timeout_s=LONG_S)
    alone = await over({"one": one}).build().generate(ask_for_text(), timeout_s=LONG_S)
    heard = await hear_all(router.stream_generate(ask_for_text(VoteOptions(panel=("one",))), timeout_s=LONG_S))

    assert [request.needs_logprob for request in one.generations] == [False] * 3
    assert (whole.answer, whole.agreement) == (alone.answer, alone.agreement) == ("ants swarm", 1.0)
    assert [ballot.logprob for ballot in (*whole.ballots, *alone.ballots)] == [None, None]
    assert [event.logprob for event in heard if isinstance(event, Ballot)] == [None]


async def test_texts_that_may_tie_are_asked_for_with_their_log_probabilities() -> None:
    clients = {name: FakeMemberClient(text=f"{name} swarm") for name in ("ants", "bees")}

    decision = await over(clients).build().generate(ask_for_text(), timeout_s=LONG_S)

    assert [request.needs_logprob for client in clients.values() for request in client.generations] == [True] * 2
    assert [ballot.logprob for ballot in decision.ballots] == [LOGPROB_PER_TOKEN] * 2


@pytest.mark.parametrize("options", [VoteOptions(include_logprobs=True), VoteOptions(include_record=True)])
async def test_whoever_asks_for_them_or_for_a_record_gets_them(options: VoteOptions) -> None:
    client = FakeMemberClient(text="ants swarm")

    decision = await over({"one": client}).build().generate(ask_for_text(options), timeout_s=LONG_S)

    assert [request.needs_logprob for request in client.generations] == [True]
    assert [ballot.logprob for ballot in decision.ballots] == [LOGPROB_PER_TOKEN]


@pytest.mark.parametrize(
    ("mode", "is_needed"), [(StreamMode.ALL, True), (StreamMode.LEADER, True), (StreamMode.FIRST_TOKEN_HEDGE, False)]
)
async def test_a_race_for_the_first_token_needs_none(mode: StreamMode, *, is_needed: bool) -> None:
    clients = {name: FakeMemberClient(text=f"{name} swarm") for name in ("ants", "bees")}
    router = over(clients).build()

    await hear_all(router.stream_generate(ask_for_text(), timeout_s=LONG_S, mode=mode))

    asked = [request.needs_logprob for client in clients.values() for request in client.generations]
    assert set(asked) == {is_needed}
