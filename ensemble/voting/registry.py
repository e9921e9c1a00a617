"""Every strategy by its name; a new one is its file and one line here."""

from __future__ import annotations

from ensemble.errors import UnknownNameError
from ensemble.voting.mbr import MinimumBayesRisk
from ensemble.voting.strategy import Strategy
from ensemble.voting.weighted import Majority, SoftVote, WeightedVote

_STRATEGIES: tuple[Strategy, ...] = (
    WeightedVote(),
    Majority(),
    SoftVote(),
    MinimumBayesRisk(),
)

STRATEGY_NAMES = tuple(strategy.name for strategy in _STRATEGIES)


def get_strategy(name: str) -> Strategy:
    """Find a strategy.

    Raises:
        UnknownNameError: there is none of that name.
    """
    for strategy in _STRATEGIES:
        if strategy.name == name:
            return strategy
    raise UnknownNameError("strategy", f"there is no strategy {name!r}", f"use one of {', '.join(STRATEGY_NAMES)}")
