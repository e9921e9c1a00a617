"""Which choices an engine makes on labelled items, and how many of them are right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ensemble.calibration.items import LabelledItem
from ensemble.calibration.statistics import accuracy_interval
from ensemble.engines.engine import Engine
from ensemble.errors import MemberError
from ensemble.generation import ScoringRequest
from ensemble.router.ballots import ballot_from_scores
from ensemble.variants.spread import Estimate
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote


async def ask_items(
    engine: Engine, member: str, items: Sequence[LabelledItem], *, on_item: Callable[[], None] = lambda: None
) -> tuple[Vote, ...]:
    """Have an engine score every item's choices, one item after another, so that each vote's latency is its own."""
    votes = []
    for item in items:
        votes.append(await _ask(engine, member, item))
        on_item()
    return tuple(votes)


def measure_accuracy(votes: Sequence[Vote], items: Sequence[LabelledItem]) -> Estimate:
    """Give the share of right choices, with its exact interval; silence is wrong."""
    num_right = sum(is_right(vote, item) for vote, item in zip(votes, items, strict=True))
    return Estimate(value=num_right / len(items), interval=accuracy_interval(num_right, len(items)))


def is_right(vote: Vote, item: LabelledItem) -> bool:
    """Say whether a vote is for the right choice."""
    return isinstance(vote, Ballot) and item.answer is not None and vote.choice == item.choices[item.answer]


async def _ask(engine: Engine, member: str, item: LabelledItem) -> Vote:
    request = ScoringRequest(request_id=item.item_id, prompt=item.prompt, choices=item.choices)
    started_s = time.perf_counter()
    try:
        scores = await engine.score(request)
        return ballot_from_scores(member, request, scores, latency_s=time.perf_counter() - started_s)
    except MemberError as error:
        latency_s = time.perf_counter() - started_s
        return Abstention(member=member, reason=AbstentionReason.ERROR, detail=error.problem, latency_s=latency_s)
