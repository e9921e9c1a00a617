from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from ensemble.errors import OverloadedError
from ensemble.generation import GenerationParameters
from ensemble.router.config import LimitsConfig
from ensemble.router.ensemble_router import EnsembleRouter
from ensemble.router.request import Event, GenerateRequest, ParameterOverrides, QuorumOverrides, VoteOptions
from ensemble.voting.decision import DecidedBy
from ensemble.voting.strategy import Quorum
from tests.fakes.member_client import FakeMemberClient
from tests.router.panels import (
    LONG_S,
    NO,
    YES,
    RouterUnderTest,
    ask_for_text,
    ask_yes_or_no,
    build_ensemble,
    closed,
    over,
)


async def test_a_panel_asks_its_members_only_in_the_ensembles_order() -> None:
    clients = {name: FakeMemberClient(probabilities=YES) for name in "abc"}

    decision = (
        await over(clients)
        .build()
        .classify(
            ask_yes_or_no(VoteOptions(panel=("c", "a"), quorum=QuorumOverrides(stop_early=False))), timeout_s=LONG_S
        )
    )

    assert [ballot.member for ballot in decision.ballots] == ["a", "c"]
    assert decision.num_asked == 2
    assert clients["b"].scorings == []


async def test_a_strategy_of_the_request_replaces_the_ensembles() -> None:
    clients = {
        "heavy": FakeMemberClient(probabilities=YES),
        "b": FakeMemberClient(probabilities=NO),
        "c": FakeMemberClient(probabilities=NO),
    }
    router = over(clients, weights={"heavy": 5.0}).build()

    by_weight = await router.classify(ask_yes_or_no(), timeout_s=LONG_S)
    by_heads = await router.classify(ask_yes_or_no(VoteOptions(strategy="majority")), timeout_s=LONG_S)

    assert (by_weight.strategy, by_weight.answer) == ("weighted_vote", "yes")
    assert (by_heads.strategy, by_heads.answer) == ("majority", "no")


@pytest.mark.parametrize(
    ("quorum", "is_degraded"),
    [
        (QuorumOverrides(), False),
        (QuorumOverrides(min_weight=0.9), True),
        (QuorumOverrides(min_families=2), True),
        (QuorumOverrides(min_weight=0.0, min_families=1), False),
    ],
)
async def test_quorum_fields_of_the_request_replace_the_ensembles_one_by_one(
    quorum: QuorumOverrides, *, is_degraded: bool
) -> None:
    clients = {
        "a": FakeMemberClient(probabilities=YES),
        "late": FakeMemberClient(probabilities=YES, gate=closed()),
    }
    router = over(clients, quorum=Quorum(min_weight=0.5, min_families=1)).build()

    decision = await router.classify(ask_yes_or_no(VoteOptions(quorum=quorum)), timeout_s=0.05)

    assert decision.decided_by is DecidedBy.DEADLINE
    assert decision.degraded is is_degraded


async def test_parameters_of_the_request_replace_the_ensembles_one_by_one() -> None:
    client = FakeMemberClient(text="w")
    defaults = GenerationParameters(max_tokens=7, temperature=0.5, top_p=0.9, seed=3, stop=("END",))
    router = over({"a": client}, parameters=defaults).build()
    request = GenerateRequest(
        request_id="r", ensemble="", prompt="Say it.", parameters=ParameterOverrides(max_tokens=9, temperature=0.0)
    )

    await router.generate(ask_for_text(), timeout_s=LONG_S)
    await router.generate(request, timeout_s=LONG_S)

    assert [generation.parameters for generation in client.generations] == [
        defaults,
        GenerationParameters(max_tokens=9, temperature=0.0, top_p=0.9, seed=3, stop=("END",)),
    ]


async def test_a_request_over_the_limit_is_refused_and_counted_and_the_slot_is_free_again_later() -> None:
    client = FakeMemberClient(probabilities=YES, gate=closed())
    system = RouterUnderTest(
        clients={"a": client}, ensemble=build_ensemble(["a"]), limits=LimitsConfig(max_concurrent=1)
    )
    router = system.build()

    async with asyncio.TaskGroup() as group:
        first = group.create_task(router.classify(ask_yes_or_no(), timeout_s=LONG_S))
        await client.asked.wait()
        with pytest.raises(OverloadedError) as caught:
            await router.classify(ask_yes_or_no(), timeout_s=LONG_S)
        client.gate.set()
    afterwards = await router.classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert caught.value.limit == 1
    assert (first.result().answer, afterwards.answer) == ("yes", "yes")
    assert system.observer.failures == [("default", "OverloadedError")]


async def _leave_a_stream(events: AsyncGenerator[Event]) -> None:
    await anext(events)
    await events.aclose()


async def _be_cancelled(router: EnsembleRouter, client: FakeMemberClient) -> None:
    task = asyncio.create_task(router.classify(ask_yes_or_no(), timeout_s=LONG_S))
    await client.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("how", ["a stream is left", "the caller is cancelled"])
async def test_a_request_that_its_caller_gives_up_frees_its_slot_and_its_members(how: str) -> None:
    clients = {"a": FakeMemberClient(probabilities=YES, text="one two", gate=closed())}
    system = RouterUnderTest(clients=clients, ensemble=build_ensemble(["a"]), limits=LimitsConfig(max_concurrent=1))
    router = system.build()

    if how == "a stream is left":
        await _leave_a_stream(router.stream_generate(ask_for_text(), timeout_s=LONG_S))
    else:
        await _be_cancelled(router, clients["a"])
    clients["a"].gate.set()
    decision = await router.classify(ask_yes_or_no(), timeout_s=LONG_S)

    assert decision.answer == "yes"
    assert (clients["a"].num_cancelled, clients["a"].num_under_way) == (1, 0)
