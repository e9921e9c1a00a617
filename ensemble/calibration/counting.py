"""Counts one data set's stored votes in every way there is: each member alone, each strategy raw and calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ensemble.calibration.calibration_file import Calibration
from ensemble.calibration.figures import Measure
from ensemble.calibration.fit import FitOptions, FoldCalibration, cross_fit, fit_calibration
from ensemble.calibration.items import ItemVotes
from ensemble.calibration.outcomes import Outcome, VoteSetup, decide_items
from ensemble.errors import ConfigError, InvalidRequestError
from ensemble.voting.ballot import Abstention, Voter
from ensemble.voting.calibrated import EnsembleCalibration
from ensemble.voting.registry import STRATEGY_NAMES, get_strategy
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import Task, task_of

FAILED_SHARE = 0.5
"""A member without a ballot on this share of the items, or more, has failed."""

Fold = tuple[VoteSetup, tuple[ItemVotes, ...]]
"""How to count, and the items that this way was not fitted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountOptions:
    """The ensemble as the spec has it: weights, how short answers are read, and the strategies that it answers with.

    ``strategy_by_kind`` has the one for items with choices under True, and that for texts under False; answers less
    sure than ``withhold_below`` are withheld. ``served`` is the calibration that the spec names, made on other items.
    """

    ensemble: str
    voters: tuple[Voter, ...]
    strategy_by_kind: Mapping[bool, str]
    answer_rule: AnswerRule = AnswerRule()
    withhold_below: float = 0.0
    served: EnsembleCalibration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A strategy over a panel, with the folds it is measured on and what came of it.

    It is raw, calibrated on the other folds (``is_fitted``), or as served: with the calibration that the spec names.
    """

    strategy: str
    is_fitted: bool
    is_served: bool = False
    measure: Measure
    folds: tuple[Fold, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def is_correct(self) -> list[bool]:
        """Whether each item was answered rightly."""
        return [outcome.is_correct for outcome in self.outcomes]

    @property
    def scores(self) -> list[float]:
        """Each item's score, in [0, 1]."""
        return [outcome.score for outcome in self.outcomes]

    def on_panel(self, members: Sequence[str]) -> Way:
        """Count the same votes with these members alone, calibrated as the whole panel was."""
        folds = tuple(
            (replace(setup, panel=tuple(voter for voter in setup.panel if voter.member in members)), items)
            for setup, items in self.folds
        )
        return replace(self, folds=folds, outcomes=_count(folds))


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedSet:
    """All ways of one set; ``calibration`` is None when nothing could be fitted, and ``problem`` says why.

    ``alone`` has by measure one way a member, in the panel's order; ``corrected`` has the same with each member's own
    calibration, where it has one. ``served`` is the spec's strategy with the calibration that the spec names, or None.
    Items are sorted as the ways' outcomes are.
    """

    items: tuple[ItemVotes, ...]
    measures: tuple[Measure, ...]
    alone: Mapping[Measure, tuple[Way, ...]]
    corrected: tuple[Way, ...]
    ways: tuple[Way, ...]
    served: Way | None
    failed: tuple[str, ...]
    calibration: Calibration | None
    problem: str


def count_set(items: Sequence[ItemVotes], options: CountOptions) -> CountedSet:
    """Count a set's votes in every way; a failed member takes no part in what is calibrated."""
    failed = failed_members(items)
    voters = tuple(voter for voter in options.voters if voter.member not in failed)
    folds, calibration, problem = _fit(items, voters, options)
    # All ways are measured on the items in one order, that of the folds, so that they can be compared in pairs.
    ordered = tuple(item for fold in folds for item in fold.held_out) if folds else tuple(items)
    has_choices = bool(ordered[0].item.choices)
    measures: tuple[Measure, ...] = ("accuracy",) if has_choices else ("exact match", "chrF")
    alone = {
        measure: tuple(
            _raw_way("mbr" if measure == "chrF" else "majority", measure, (voter,), items=ordered, options=options)
            for voter in options.voters
        )
        for measure in measures
    }
    ways = _raw_ways(ordered, options, has_choices=has_choices)
    corrected: tuple[Way, ...] = ()
    if calibration:
        ways += [_fitted_way(name, folds, voters, options=options) for name in calibration.strategies]
    if calibration and has_choices:
        corrected = tuple(_fitted_way("majority", folds, (voter,), options=options) for voter in voters)
    return CountedSet(
        items=ordered,
        measures=measures,
        alone=alone,
        corrected=corrected,
        ways=tuple(ways),
        served=_served_way(ordered, options, has_choices=has_choices),
        failed=failed,
        calibration=calibration,
        problem=problem,
    )


def failed_members(items: Sequence[ItemVotes]) -> tuple[str, ...]:
    """Name the members without a ballot on half of the items or more, in the panel's order."""
    members = [vote.member for vote in items[0].votes]
    num_silent = [sum(isinstance(item.votes[place], Abstention) for item in items) for place in range(len(members))]
    return tuple(
        member for member, silent in zip(members, num_silent, strict=True) if silent >= FAILED_SHARE * len(items)
    )


def _fit(
    items: Sequence[ItemVotes], voters: tuple[Voter, ...], options: CountOptions
) -> tuple[tuple[FoldCalibration, ...], Calibration | None, str]:
    fit_options = FitOptions(ensemble=options.ensemble, answer_rule=options.answer_rule)
    if not voters:
        return (), None, "every member failed"
    try:
        return (
            cross_fit(items, voters, options=fit_options),
            fit_calibration(items, voters, options=fit_options),
            "",
        )
    except ConfigError as error:
        return (), None, str(error)


def _raw_ways(items: tuple[ItemVotes, ...], options: CountOptions, *, has_choices: bool) -> list[Way]:
    ways = []
    for name in STRATEGY_NAMES:
        strategy = get_strategy(name)
        task = task_of(strategy, has_choices=has_choices)
        # A second round asks models, which stored ballots cannot.
        if task is None or strategy.second_round is not None:
            continue
        measure = _measure(task)
        try:
            way = _raw_way(name, measure, options.voters, items=items, options=options)
        except (InvalidRequestError, ConfigError):
            # It needs what is not there: stacking a calibration, log_pool probabilities.
            continue
        # field_vote reads no answer where members do not write JSON.
        if any(outcome.decision for outcome in way.outcomes):
            ways.append(way)
    return ways


def _raw_way(
    strategy: str, measure: Measure, panel: tuple[Voter, ...], *, items: tuple[ItemVotes, ...], options: CountOptions
) -> Way:
    folds: tuple[Fold, ...] = ((VoteSetup(strategy=strategy, panel=panel, answer_rule=options.answer_rule), items),)
    return Way(strategy=strategy, is_fitted=False, measure=measure, folds=folds, outcomes=_count(folds))


def _served_way(items: tuple[ItemVotes, ...], options: CountOptions, *, has_choices: bool) -> Way | None:
    """Count as the spec's ensemble does; None when its calibration is not for such items, or it asks models again."""
    name, calibration = options.strategy_by_kind[has_choices], options.served
    task = task_of(get_strategy(name), has_choices=has_choices)
    if calibration is None or calibration.has_choices is not has_choices or name not in calibration.by_strategy:
        return None
    if task is None or get_strategy(name).second_round is not None:
        return None
    setup = VoteSetup(strategy=name, panel=options.voters, calibration=calibration, answer_rule=options.answer_rule)
    folds: tuple[Fold, ...] = ((setup, items),)
    return Way(
        strategy=name, is_fitted=False, is_served=True, measure=_measure(task), folds=folds, outcomes=_count(folds)
    )


def _fitted_way(
    strategy: str, fold_calibrations: Sequence[FoldCalibration], panel: tuple[Voter, ...], *, options: CountOptions
) -> Way:
    folds = tuple(
        (
            VoteSetup(strategy=strategy, panel=panel, calibration=fold.calibration, answer_rule=options.answer_rule),
            fold.held_out,
        )
        for fold in fold_calibrations
    )
    # What can be calibrated votes on choices or short answers.
    measure: Measure = "accuracy" if fold_calibrations[0].held_out[0].item.choices else "exact match"
    return Way(strategy=strategy, is_fitted=True, measure=measure, folds=folds, outcomes=_count(folds))


def _measure(task: Task) -> Measure:
    match task:
        case Task.CHOICE:
            return "accuracy"
        case Task.SHORT_ANSWER:
            return "exact match"
        case Task.FREE_TEXT:
            return "chrF"


def _count(folds: Sequence[Fold]) -> tuple[Outcome, ...]:
    return tuple(outcome for setup, items in folds for outcome in decide_items(setup, items))
