"""Every lineup of one panel, measured on stored votes by calibrations that were not fitted on the item at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.calibration.call_costs import CallCosts
from ensemble.calibration.fit import FitOptions, cross_fit, fitting_strategies
from ensemble.calibration.items import ItemVotes
from ensemble.calibration.lineup import Lineup, MeasuredLineup
from ensemble.calibration.outcomes import VoteSetup
from ensemble.calibration.vote_trace import Run, VoteTrace, trace_vote
from ensemble.voting.asking import AskPlan
from ensemble.voting.ballot import Voter
from ensemble.voting.calibrated import EnsembleCalibration
from ensemble.voting.registry import get_strategy
from ensemble.voting.strategy import Quorum, Task

THRESHOLDS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Confidences at which a first stage may be enough; deciding it without loss always is."""
Fold = tuple[EnsembleCalibration | None, tuple[ItemVotes, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelMeter:
    """Measures panels on ``items``; ``options`` name the strategies that may be tried, and how to fit.

    Free-text rules are not calibrated and count with the voters' own weights. ``quorum`` is the ensemble's; a panel
    with fewer families than it asks for is asked for all that it has.
    """

    items: Sequence[ItemVotes]
    voters: Sequence[Voter]
    costs: CallCosts
    options: FitOptions
    quorum: Quorum

    def measure(self, members: Sequence[str]) -> tuple[MeasuredLineup, ...]:
        """Measure every lineup of the panel of these members; a single member has one.

        Raises:
            ConfigError: the panel cannot be calibrated on these items.
        """
        panel = tuple(voter for voter in self.voters if voter.member in members)
        strategies = self._strategies(panel)
        folds = self._folds(panel, strategies)
        return tuple(
            measured
            for strategy in strategies
            if _has_weight(strategy, folds)
            for measured in self._of_strategy(panel, strategy, folds)
        )

    def _strategies(self, panel: tuple[Voter, ...]) -> tuple[str, ...]:
        named = self.options.strategies
        if all(_is_free_text(strategy) for strategy in named):
            return named[:1] if len(panel) == 1 else named
        if len(panel) == 1:
            # Alone, a member's ballot is the answer, whatever counts it; this rule has no weight that could be 0.
            return ("majority",)
        return tuple(strategy for strategy in fitting_strategies(self.items, panel) if strategy in named)

    def _folds(self, panel: tuple[Voter, ...], strategies: tuple[str, ...]) -> tuple[Fold, ...]:
        if all(_is_free_text(strategy) for strategy in strategies):
            return ((None, tuple(self.items)),)
        options = replace(self.options, strategies=strategies)
        return tuple((fold.calibration, fold.held_out) for fold in cross_fit(self.items, panel, options=options))

    def _of_strategy(self, panel: tuple[Voter, ...], strategy: str, folds: Sequence[Fold]) -> list[MeasuredLineup]:
        place_by_id = {item.item.item_id: place for place, item in enumerate(self.items)}
        costs = self.costs.mean_by_member
        order = tuple(sorted((voter.member for voter in panel), key=costs.__getitem__))
        families = len({voter.family for voter in panel})
        quorum = replace(self.quorum, min_families=min(self.quorum.min_families, families), stop_early=True)
        traces: list[VoteTrace | None] = [None] * len(self.items)
        for calibration, held_out in folds:
            setup = VoteSetup(
                strategy=strategy,
                panel=panel,
                calibration=calibration,
                quorum=quorum,
                answer_rule=self.options.answer_rule,
            )
            for item in held_out:
                place = place_by_id[item.item.item_id]
                traces[place] = trace_vote(setup, item, self.costs.by_item[place], order=order)
        ways = _ways(Lineup(members=tuple(voter.member for voter in panel), strategy=strategy), order, folds)
        whole = [trace for trace in traces if trace is not None]
        if len(whole) < len(traces):
            raise AssertionError("every item is held out once")
        return [_measured(lineup, [run_of(trace) for trace in whole]) for lineup, run_of in ways]


def _ways(
    lineup: Lineup, order: tuple[str, ...], folds: Sequence[Fold]
) -> list[tuple[Lineup, Callable[[VoteTrace], Run]]]:
    """List the ways to ask a panel and to stop, and where a trace has their runs."""
    ways: list[tuple[Lineup, Callable[[VoteTrace], Run]]] = [(lineup, lambda trace: trace.lossless)]
    fitted = [calibration.by_strategy.get(lineup.strategy) if calibration else None for calibration, _ in folds]
    if any(one.certificates for one in fitted if one):
        ways.append((replace(lineup, stop="risk"), lambda trace: trace.risk))
    thresholds = (*THRESHOLDS, 1.0) if all(fitted) else (1.0,)
    # The router asks all at once for whole texts, which have neither a confidence nor choices that could agree.
    sizes = range(0) if get_strategy(lineup.strategy).is_heavy else range(1, len(order))
    for size in sizes:
        stages = (order[:size], order[size:])
        for threshold in thresholds:
            plan = AskPlan(stages=stages, rule="staged", min_confidence=threshold)
            ways.append((replace(lineup, asking=plan), _staged(size, threshold)))
        if size >= 2:
            plan = AskPlan(stages=stages, rule="cascade")
            ways.append((replace(lineup, asking=plan), _cascade(size)))
    return ways


def _staged(size: int, threshold: float) -> Callable[[VoteTrace], Run]:
    return lambda trace: trace.stages[size - 1].staged(threshold)


def _cascade(size: int) -> Callable[[VoteTrace], Run]:
    return lambda trace: trace.stages[size - 1].cascade()


def _measured(lineup: Lineup, runs: Sequence[Run]) -> MeasuredLineup:
    scores, costs, latencies_s = np.array(runs, dtype=np.float64).T
    return MeasuredLineup(lineup=lineup, scores=scores, costs=costs, latencies_s=latencies_s)


def _has_weight(strategy: str, folds: Sequence[Fold]) -> bool:
    """Say whether anybody's ballot counts: members that only guess may all have weight 0."""
    fitted = [calibration.by_strategy[strategy] for calibration, _ in folds if calibration]
    return all(any(one.weight_by_member.values()) for one in fitted)


def _is_free_text(strategy: str) -> bool:
    return Task.FREE_TEXT in get_strategy(strategy).tasks
