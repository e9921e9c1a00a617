"""Over the running system, too, stopping early never changes the answer."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from ensemble.router.request import QuorumOverrides, VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.voting.decision import DecidedBy, Decision
from tests.serving.systems import RunningSystem

pytestmark = pytest.mark.ray

NUM_PANELS = 1_000
NUM_AT_ONCE = 8
MEMBERS = ("p0", "p1", "p2", "p3")
CHOICES = ("yes", "no", "maybe", "never")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question to one panel."""

    prompt: str
    choices: tuple[str, ...]
    panel: tuple[str, ...]
    strategy: str
    min_weight: float

    async def ask(self, client: AsyncEnsembleClient, *, stop_early: bool) -> Decision:
        """Ask the running system."""
        quorum = QuorumOverrides(stop_early=stop_early, min_weight=self.min_weight)
        options = VoteOptions(strategy=self.strategy, panel=self.panel, quorum=quorum)
        return await client.classify(self.prompt, self.choices, ensemble="panel", options=options)


def draw_case(rng: random.Random, number: int) -> Case:
    return Case(
        prompt=f"Question {number}?",
        choices=CHOICES[: rng.randint(2, len(CHOICES))],
        panel=tuple(rng.sample(MEMBERS, rng.randint(1, len(MEMBERS)))),
        strategy=rng.choice(("majority", "weighted_vote", "soft_vote")),
        min_weight=rng.choice((0.0, 0.5, 1.0)),
    )


async def test_a_thousand_panels_answer_the_same_with_and_without_stopping_early(system: RunningSystem) -> None:
    rng = random.Random(20_240_607)
    cases = iter([draw_case(rng, number) for number in range(NUM_PANELS)])
    pairs: list[tuple[Case, Decision, Decision]] = []

    async def ask_on(client: AsyncEnsembleClient) -> None:
        for case in cases:
            early = await case.ask(client, stop_early=True)
            pairs.append((case, early, await case.ask(client, stop_early=False)))

    async with AsyncEnsembleClient(system.address) as client, asyncio.TaskGroup() as group:
        for _ in range(NUM_AT_ONCE):
            group.create_task(ask_on(client))

    assert len(pairs) == NUM_PANELS
    for case, early, full in pairs:
        assert (early.answer, early.degraded) == (full.answer, full.degraded), case
        assert full.decided_by is DecidedBy.ALL
        assert len(full.ballots) == len(case.panel)
    assert sum(early.decided_by is DecidedBy.LOSSLESS_QUORUM for _, early, _ in pairs) > NUM_PANELS // 50
    assert len({full.answer for _, _, full in pairs}) == len(CHOICES)
