"""Builds routers over fake members, and requests for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ensemble.generation import GenerationParameters
from ensemble.router.config import LimitsConfig
from ensemble.router.election import Ensemble
from ensemble.router.ensemble_router import EnsembleRouter
from ensemble.router.feedback import OnlineWeights
from ensemble.router.request import ClassifyRequest, Event, GenerateRequest, VoteOptions
from ensemble.voting.asking import AskPlan
from ensemble.voting.ballot import Voter
from ensemble.voting.calibrated import EnsembleCalibration
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import Quorum, SecondRound
from tests.fakes.member_client import FakeMemberClient
from tests.fakes.observer import FakeObserver
from tests.fakes.voting_client import FakeVotingClient

CHOICES = ("yes", "no")
YES, NO = (0.75, 0.25), (0.25, 0.75)
LONG_S = 60.0
"""Nothing in these tests waits this long."""
SHORT_S = 0.5
"""A time that tests let pass; members that answer at once do so within it on a busy machine, too."""


def build_ensemble(
    members: Sequence[str],
    *,
    name: str = "default",
    weights: Mapping[str, float] | None = None,
    quorum: Quorum | None = None,
    fail_without_quorum: bool = False,
    parameters: GenerationParameters | None = None,
    calibration: EnsembleCalibration | None = None,
    plan: AskPlan | None = None,
    assistant_by_round: Mapping[SecondRound, str] | None = None,
) -> Ensemble:
    """Make an ensemble whose members are a family each."""
    return Ensemble(
        name=name,
        voters=tuple(
            Voter(member=member, family=f"family-{member}", weight=(weights or {}).get(member, 1.0))
            for member in members
        ),
        classify_strategy="weighted_vote",
        generate_strategy="majority",
        quorum=quorum or Quorum(),
        fail_without_quorum=fail_without_quorum,
        answer_rule=AnswerRule(),
        parameters=parameters or GenerationParameters(),
        calibration=calibration,
        plan=plan,
        assistant_by_round=assistant_by_round or {},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterUnderTest:
    """A router and everything fake around it."""

    clients: Mapping[str, FakeMemberClient]
    ensemble: Ensemble
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    voting: FakeVotingClient = field(default_factory=FakeVotingClient)
    observer: FakeObserver = field(default_factory=FakeObserver)
    online: OnlineWeights | None = None

    def build(self) -> EnsembleRouter:
        """Make the router."""
        return EnsembleRouter(
            [self.ensemble],
            self.clients,
            self.voting,
            limits=self.limits,
            observer=self.observer,
            online=self.online,
        )


def over(clients: Mapping[str, FakeMemberClient], **ensemble: object) -> RouterUnderTest:
    """Put an ensemble of all these members into a router."""
    return RouterUnderTest(clients=clients, ensemble=build_ensemble(list(clients), **ensemble))  # type: ignore[arg-type]


def ask_yes_or_no(options: VoteOptions | None = None, choices: tuple[str, ...] = CHOICES) -> ClassifyRequest:
    """Ask something with choices."""
    return ClassifyRequest(
        request_id="r", ensemble="", prompt="Is it so?", choices=choices, options=options or VoteOptions()
    )


def ask_for_text(options: VoteOptions | None = None) -> GenerateRequest:
    """Ask for a text."""
    return GenerateRequest(request_id="r", ensemble="", prompt="Say it.", options=options or VoteOptions())


async def hear_all(events: AsyncGenerator[Event]) -> list[Event]:
    """Read a stream to its end."""
    async with aclosing(events):
        return [event async for event in events]


async def answer_in_order(clients: Sequence[FakeMemberClient]) -> None:
    """Wait until all were asked, then let them answer one after another."""
    for client in clients:
        await client.asked.wait()
    for client in clients:
        client.gate.set()
        await client.left.wait()


def closed() -> asyncio.Event:
    """Make a gate that the test opens, or nobody."""
    return asyncio.Event()
