"""What not waiting for everyone, or not asking everyone, would have saved on stored votes, and at what accuracy."""

from __future__ import annotations

from collections.abc import Mapping

from ensemble.calibration.counting import CountedSet, Way
from ensemble.calibration.figures import SavingFigures
from ensemble.calibration.items import ItemVotes
from ensemble.calibration.outcomes import compare_stops, latency_arrivals, stop_item
from ensemble.calibration.risk_stops import count_risk_stops, largest_bound
from ensemble.calibration.stages import (
    StagedFigures,
    build_plans,
    describe_plan,
    is_too_much,
    measure_plan,
    threshold_figures,
)
from ensemble.calibration.statistics import mcnemar
from ensemble.voting.ballot import Voter

THRESHOLDS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Confidences at which a stage is enough."""


def measure_savings(way: Way, *, cost_by_member: Mapping[str, float]) -> tuple[SavingFigures, ...]:
    """Measure the stops and the stages of one way of voting."""
    panel = tuple(voter.member for voter in way.folds[0][0].panel)
    savings = [_stop(way, with_risk=False)]
    if largest_bound([setup for setup, _ in way.folds]):
        savings.append(_stop(way, with_risk=True))
    if len(panel) > 1:
        cheapest_first = tuple(sorted(panel, key=lambda member: (cost_by_member[member], panel.index(member))))
        savings += _stages(way, cheapest_first, cost_by_member=cost_by_member)
    return tuple(savings)


def stopping_ways(counted: CountedSet, *, strategy: str, best: str) -> tuple[Way, ...]:
    """Choose the ways whose savings are worth telling: the spec's strategy and the best one, calibrated if they are."""
    chosen = []
    for name in dict.fromkeys((strategy, best)):
        same = [way for way in counted.ways if way.strategy == name and way.measure != "chrF"]
        chosen += [way for way in same if way.is_fitted] or same
    return tuple(chosen)


def _stop(way: Way, *, with_risk: bool) -> SavingFigures:
    stopped = tuple(
        stop_item(setup, item, _arrivals(item, setup.panel), with_risk=with_risk)
        for setup, items in way.folds
        for item in items
    )
    figures = compare_stops(way.outcomes, stopped, num_members=len(way.folds[0][0].panel))
    test = mcnemar([outcome.is_correct for outcome in stopped], way.is_correct)
    risk = count_risk_stops(
        stopped,
        {outcome.item_id: outcome for outcome in way.outcomes},
        bound=largest_bound([setup for setup, _ in way.folds]),
    )
    detail = f"{figures.num_stops} of {figures.num_items} votes ended early"
    if with_risk:
        detail += f"; {risk.num_disagreements} of {risk.num_stops} by certificate otherwise (bound {risk.bound:.2%})"
    return SavingFigures(
        way="risk stop" if with_risk else "lossless stop",
        strategy=way.strategy,
        is_fitted=way.is_fitted,
        detail=detail,
        saving=figures.saving,
        accuracy=figures.accuracy,
        full_accuracy=figures.full_accuracy,
        num_changed=figures.num_disagreements,
        p_value=test.p_value,
        is_refused=risk.is_beyond or is_too_much(figures.full_accuracy - figures.accuracy, test),
    )


def _arrivals(item: ItemVotes, panel: tuple[Voter, ...]) -> tuple[str, ...]:
    members = {voter.member for voter in panel}
    return tuple(member for member in latency_arrivals(item) if member in members)


def _stages(way: Way, cheapest_first: tuple[str, ...], *, cost_by_member: Mapping[str, float]) -> list[SavingFigures]:
    folds = way.folds
    measured: list[StagedFigures] = []
    # Without a calibration there is no confidence: a stage is enough when nothing still out could change the answer.
    thresholds = THRESHOLDS if way.is_fitted else (1.0,)
    for plan in build_plans(cheapest_first):
        if plan.rule == "staged":
            measured += threshold_figures(plan, folds, thresholds=thresholds, cost_by_member=cost_by_member)
        else:
            measured.append(measure_plan(plan, folds, cost_by_member=cost_by_member))
    return [_staged(way, figures) for figures in measured]


def _staged(way: Way, figures: StagedFigures) -> SavingFigures:
    return SavingFigures(
        way=figures.plan.rule,
        strategy=way.strategy,
        is_fitted=way.is_fitted,
        detail=describe_plan(figures.plan, has_confidence=way.is_fitted),
        saving=figures.saving,
        accuracy=figures.accuracy,
        full_accuracy=figures.full_accuracy,
        num_changed=None,
        p_value=figures.comparison.p_value,
        is_refused=figures.is_refused,
    )
