"""Every strategy by its name; a new one is its file and one line here."""

from __future__ import annotations

from ensemble.errors import UnknownNameError
from ensemble.voting.borda import Borda
from ensemble.voting.field_vote import FieldVote
from ensemble.voting.fuse import Fuse
from ensemble.voting.judge import Judge
from ensemble.voting.log_linear import LogPool, Stacking
from ensemble.voting.mbr import mbr_strategies
from ensemble.voting.rank import CrossPerplexity
from ensemble.voting.semantic import semantic_strategies
from ensemble.voting.strategy import Strategy
from ensemble.voting.weighted import Majority, SoftVote, WeightedVote

_STRATEGIES: tuple[Strategy, ...] = (
    WeightedVote(),
    Majority(),
    SoftVote(),
    LogPool(),
    Borda(),
    Stacking(),
    FieldVote(),
    *semantic_strategies(),
    *mbr_strategies(),
    CrossPerplexity(),
    Judge(),
    Fuse(),
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
