"""The ways of asking in stages that a calibration file suggests, each measured on items that were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble.calibration.calibration_file import StageRecord
from ensemble.calibration.held_out import FittedFold, MeasureOptions, build_setups
from ensemble.calibration.stages import (
    StagedFigures,
    build_plans,
    choose_threshold,
    measure_plan,
    threshold_figures,
)


def measure_stages(name: str, folds: Sequence[FittedFold], *, options: MeasureOptions) -> tuple[StageRecord, ...]:
    """Measure plans in stages on held-out items, a staged one at the threshold that ``choose_threshold`` gives.

    Where even its highest threshold is refused, that is what is told.
    """
    costs, members = options.cost_by_member, [voter.member for voter in options.panel]
    if costs is None:
        return ()
    cheapest_first = sorted(members, key=lambda member: costs.get(member, 1.0))
    setups = build_setups(name, folds, options)
    setup_folds = [(setup, fold.held_out) for setup, fold in zip(setups, folds, strict=True)]
    records = []
    for plan in build_plans(cheapest_first):
        if plan.rule == "staged":
            tried = threshold_figures(plan, setup_folds, cost_by_member=costs)
            records.append(_stage_record(choose_threshold(tried) or tried[0]))
        else:
            records.append(_stage_record(measure_plan(plan, setup_folds, cost_by_member=costs)))
    return tuple(records)


def _stage_record(figures: StagedFigures) -> StageRecord:
    return StageRecord(
        rule=figures.plan.rule,
        stages=figures.plan.stages,
        min_confidence=figures.plan.min_confidence if figures.plan.rule == "staged" else None,
        mean_asked=figures.mean_asked,
        saving=figures.saving,
        accuracy=figures.accuracy,
        full_accuracy=figures.full_accuracy,
        num_gained=figures.comparison.num_gained,
        num_lost=figures.comparison.num_lost,
        p_value=figures.comparison.p_value,
        is_refused=figures.is_refused,
    )
