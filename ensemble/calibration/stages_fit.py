"""The ways of asking in stages that a calibration file suggests, each measured on items that were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble.calibration.calibration_file import StageRecord
from ensemble.calibration.held_out import FittedFold, MeasureOptions, build_setups
from ensemble.calibration.stages import (
    StagedFigures,
    build_plans,
    choose_held_out,
    measure_plan,
)


def measure_stages(name: str, folds: Sequence[FittedFold], *, options: MeasureOptions) -> tuple[StageRecord, ...]:
    """Measure plans in stages on items that neither the calibration nor a staged plan's threshold was fitted on."""
    costs, members = options.cost_by_member, [voter.member for voter in options.panel]
    if costs is None:
        return ()
    cheapest_first = sorted(members, key=lambda member: costs.get(member, 1.0))
    setups = build_setups(name, folds, options)
    setup_folds = [(setup, fold.held_out) for setup, fold in zip(setups, folds, strict=True)]
    records = []
    for plan in build_plans(cheapest_first):
        if plan.rule == "staged":
            records.append(_stage_record(choose_held_out(plan, setup_folds, cost_by_member=costs)))
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
