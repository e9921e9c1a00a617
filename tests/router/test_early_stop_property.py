"""Stopping early never changes what the full vote would have said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.errors import MemberError, QuorumError
from ensemble.router.request import QuorumOverrides, VoteOptions
from ensemble.voting.decision import DecidedBy
from ensemble.voting.strategy import Quorum
from tests.fakes.member_client import FakeMemberClient
from tests.router.panels import LONG_S, answer_in_order, ask_yes_or_no, closed, over

NAMES = ("a", "b", "c", "d", "e", "f", "g")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A whole vote as it would go if everyone were waited for; a member without probabilities fails."""

    weights: tuple[float, ...]
    probabilities: tuple[tuple[float, ...] | None, ...]
    order: tuple[int, ...]
    choices: tuple[str, ...]
    strategy: str
    quorum: Quorum


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What must not depend on stopping early; no answer means that there was no quorum at all."""

    answer: str | None
    degraded: bool


@st.composite
def panels(draw: st.DrawFn) -> Panel:
    num_members = draw(st.integers(1, len(NAMES)))
    choices = ("yes", "no", "maybe")[: draw(st.integers(2, 3))]
    share = st.integers(1, 8)
    weight = st.sampled_from((1.0, 1.0, 0.5, 2.0, 0.1, 0.3, 1e-9, 7.25))

    def probabilities() -> tuple[float, ...] | None:
        if draw(st.integers(0, 4)) == 0:
            return None
        shares = [draw(share) for _ in choices]
        return tuple(part / sum(shares) for part in shares)

    return Panel(
        weights=tuple(draw(weight) for _ in range(num_members)),
        probabilities=tuple(probabilities() for _ in range(num_members)),
        order=tuple(draw(st.permutations(range(num_members)))),
        choices=choices,
        strategy=draw(st.sampled_from(("majority", "weighted_vote", "soft_vote"))),
        quorum=Quorum(min_weight=draw(st.sampled_from((0.0, 0.5, 0.75, 1.0))), min_families=draw(st.integers(1, 3))),
    )


async def hold(panel: Panel, *, stop_early: bool) -> tuple[Outcome, DecidedBy | None]:
    clients = {
        name: FakeMemberClient(
            probabilities=probabilities or (),
            error=None if probabilities else MemberError(name, "broken"),
            gate=closed(),
        )
        for name, probabilities in zip(NAMES, panel.probabilities, strict=False)
    }
    weights = dict(zip(NAMES, panel.weights, strict=False))
    router = over(clients, weights=weights, quorum=panel.quorum).build()
    options = VoteOptions(strategy=panel.strategy, quorum=QuorumOverrides(stop_early=stop_early))
    members: Sequence[FakeMemberClient] = list(clients.values())
    async with asyncio.TaskGroup() as group:
        group.create_task(answer_in_order([members[index] for index in panel.order]))
        try:
            decision = await router.classify(ask_yes_or_no(options, panel.choices), timeout_s=LONG_S)
        except QuorumError:
            return Outcome(answer=None, degraded=True), None
    assert all(client.num_under_way == 0 for client in members)
    return Outcome(answer=decision.answer, degraded=decision.degraded), decision.decided_by


def test_a_vote_that_stops_early_says_what_the_full_vote_says() -> None:
    num_stopped_early = 0

    @settings(max_examples=1_000, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(panel=panels())
    def check(panel: Panel) -> None:
        nonlocal num_stopped_early
        early, decided_by = runner.run(hold(panel, stop_early=True))
        full, _ = runner.run(hold(panel, stop_early=False))
        num_stopped_early += decided_by is DecidedBy.LOSSLESS_QUORUM
        assert early == full

    with asyncio.Runner() as runner:
        check()

    assert num_stopped_early > 100
