"""What certificates do to stored votes in every order of arrival, by the tallies that serve."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ensemble.calibration.items import ItemVotes
from ensemble.calibration.outcomes import VoteSetup, decide_item, question_of, random_arrivals, votes_of
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.registry import get_strategy

RANDOM = ("random",)


@dataclass(slots=True)
class Stops:
    """Votes that certificates ended, and those of them that the full panel answers otherwise."""

    num_stops: int = 0
    num_disagreements: int = 0

    @property
    def share(self) -> float:
        """The share that got another answer."""
        return self.num_disagreements / max(self.num_stops, 1)


def stops_by_order(setup: VoteSetup, items: Sequence[ItemVotes]) -> Mapping[tuple[str, ...], Stops]:
    """Count risk stops in every fixed order of arrival, and under RANDOM in one drawn for each item."""
    orders = list(itertools.permutations(voter.member for voter in setup.panel))
    stops = {order: Stops() for order in [*orders, RANDOM]}
    for item in items:
        answer = decide_item(setup, item).answer
        decisions = _decisions(setup, item)
        for order, counted in stops.items():
            arrivals = random_arrivals(item) if order == RANDOM else order
            prefixes = (frozenset(arrivals[:size]) for size in range(1, len(arrivals)))
            decision = next((decisions[prefix] for prefix in prefixes if prefix in decisions), None)
            if decision is not None and decision.decided_by is DecidedBy.RISK_QUORUM:
                counted.num_stops += 1
                counted.num_disagreements += decision.answer != answer
    return stops


def _decisions(setup: VoteSetup, item: ItemVotes) -> dict[frozenset[str], Decision]:
    """Give the decisions of the subsets of members whose votes end the vote; the order among them does not matter."""
    votes = votes_of(setup, item)
    decisions = {}
    for size in range(1, len(votes)):
        for subset in itertools.combinations(votes, size):
            tally = get_strategy(setup.strategy).open_tally(question_of(setup, item.item))
            for member in subset:
                tally = tally.add(votes[member])
            if tally.is_decided():
                decisions[frozenset(subset)] = tally.decide(DecidedBy.LOSSLESS_QUORUM)
            elif tally.is_certified():
                decisions[frozenset(subset)] = tally.decide(DecidedBy.RISK_QUORUM)
    return decisions
