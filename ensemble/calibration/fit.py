"""From labelled items and everybody's votes to a calibration, with figures from items that were not fitted on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ensemble.calibration.calibration_file import Calibration, MemberRecord
from ensemble.calibration.fit_checks import check_items, check_turnout, check_voters
from ensemble.calibration.held_out import (
    FittedFold,
    MeasureOptions,
    build_gate,
    corrected_accuracies,
    measure_strategy,
    member_record,
    strategy_record,
)
from ensemble.calibration.items import ItemVotes
from ensemble.calibration.parameters import ParameterOptions, Parameters, fit_parameters
from ensemble.calibration.stages_fit import measure_stages
from ensemble.calibration.sums import HARD_STRATEGIES, SOFT_STRATEGIES
from ensemble.calibration.vote_arrays import VoteArrays, build_arrays
from ensemble.errors import ConfigError
from ensemble.voting.ballot import Ballot, Voter
from ensemble.voting.calibrated import EnsembleCalibration
from ensemble.voting.registry import STRATEGY_NAMES
from ensemble.voting.short_answer import AnswerRule

MIN_ITEMS = 20
"""Fewer labelled items are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """What a calibration is made for and how.

    ``strategies`` empty means every one that can count the stored votes. ``num_folds`` parts are held out in turn for
    the reported figures; items fall into them by a hash of ``seed`` and their id. ``conformal_alpha`` is the error rate
    of label sets, ``risk_delta`` that of the risk stop (None for no certificates), ``withhold_below`` the confidence
    under which answers are withheld, ``significance`` the p-value below which a gain is claimed. ``cost_by_member``,
    where given, is what asking a member costs (in any unit): asking the cheapest first is measured too.
    """

    ensemble: str
    data_digest: str = ""
    fingerprint_by_member: Mapping[str, str] = field(default_factory=dict)
    spec_facts: Mapping[str, str] = field(default_factory=dict)
    strategies: tuple[str, ...] = ()
    answer_rule: AnswerRule = AnswerRule()
    num_folds: int = 5
    seed: int = 0
    conformal_alpha: float | None = 0.1
    risk_delta: float | None = 0.01
    withhold_below: float = 0.0
    significance: float = 0.05
    cost_by_member: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldCalibration:
    """A calibration fitted without ``held_out`` (certificates and label sets included), to be measured on them."""

    calibration: EnsembleCalibration
    held_out: tuple[ItemVotes, ...]


def fit_calibration(items: Sequence[ItemVotes], voters: Sequence[Voter], *, options: FitOptions) -> Calibration:
    """Calibrate an ensemble: final parameters from all items, figures cross-fitted on held-out items.

    Members that are not among ``voters`` are left out: that is how a member is excluded. All items have choices, or
    all have references. The calibration's strategies are those that were calibrated.

    Raises:
        ConfigError: fewer than MIN_ITEMS labelled items, duplicate item ids, items of both kinds, a member that
            abstained on half of its items or more (with its counts), or a strategy that cannot count these votes.
    """
    task = _prepare(items, voters, options)
    folds = _fit_folds(task)
    parameters = fit_parameters(task.arrays, _parameter_options(task))
    members = _member_records(task, parameters, folds)
    measure = _measure_options(task)
    held_out = {name: measure_strategy(name, folds, options=measure) for name in task.strategies}
    stages = {name: measure_stages(name, folds, options=measure) for name in task.strategies}
    return Calibration(
        ensemble=options.ensemble,
        spec_facts=dict(options.spec_facts),
        data_digest=options.data_digest,
        num_items=len(task.items),
        has_choices=task.arrays.has_choices,
        labels=task.arrays.labels,
        collision=parameters.collision,
        error_correlation_by_family=dict(parameters.correlation_by_family),
        members=members,
        strategies={
            name: strategy_record(
                fitted, held_out[name], stages[name], alpha=options.conformal_alpha, delta=options.risk_delta
            )
            for name, fitted in parameters.by_strategy.items()
        },
        gate=build_gate(held_out, significance=options.significance),
    )


def cross_fit(
    items: Sequence[ItemVotes], voters: Sequence[Voter], *, options: FitOptions
) -> tuple[FoldCalibration, ...]:
    """Fit once for every fold on the others, so that anything can be measured on items that were not fitted on.

    Raises:
        ConfigError: as for ``fit_calibration``.
    """
    folds = _fit_folds(_prepare(items, voters, options))
    return tuple(FoldCalibration(calibration=fold.calibration, held_out=fold.held_out) for fold in folds)


def fitting_strategies(items: Sequence[ItemVotes], voters: Sequence[Voter]) -> tuple[str, ...]:
    """Name the strategies that can be calibrated on these votes, in the registry's order.

    Those that need probabilities only when every ballot has them; free-text rules have no calibration.
    """
    members = {voter.member for voter in voters}
    ballots = (vote for item in items for vote in item.votes if isinstance(vote, Ballot) and vote.member in members)
    has_probabilities = all(item.item.choices for item in items) and all(ballot.probabilities for ballot in ballots)
    known = (*HARD_STRATEGIES, *SOFT_STRATEGIES) if has_probabilities else HARD_STRATEGIES
    return tuple(name for name in STRATEGY_NAMES if name in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FitTask:
    """Checked input: items in the order of their hashes, which the folds follow."""

    items: tuple[ItemVotes, ...]
    voters: tuple[Voter, ...]
    strategies: tuple[str, ...]
    arrays: VoteArrays
    options: FitOptions


def _prepare(items: Sequence[ItemVotes], voters: Sequence[Voter], options: FitOptions) -> _FitTask:
    check_items(items, least=MIN_ITEMS)
    check_voters(voters)
    possible = fitting_strategies(items, voters)
    if unfit := [name for name in options.strategies if name not in possible]:
        problem = f"{', '.join(unfit)} cannot be calibrated on these votes"
        raise ConfigError("strategies", problem, f"leave it out, or use {', '.join(possible)}")

    def draw(item: ItemVotes) -> bytes:
        return hashlib.sha256(f"{options.seed}\n{item.item.item_id}".encode()).digest()

    ordered = tuple(sorted(items, key=draw))
    arrays = build_arrays(ordered, voters, answer_rule=options.answer_rule)
    check_turnout(arrays)
    return _FitTask(
        items=ordered,
        voters=tuple(voters),
        strategies=options.strategies or possible,
        arrays=arrays,
        options=options,
    )


def _fit_folds(task: _FitTask) -> tuple[FittedFold, ...]:
    fold_N = np.arange(len(task.items)) % task.options.num_folds
    folds = []
    for number in range(task.options.num_folds):
        train = task.arrays.take(np.flatnonzero(fold_N != number))
        places = np.flatnonzero(fold_N == number)
        parameters = fit_parameters(train, _parameter_options(task))
        folds.append(
            FittedFold(
                calibration=EnsembleCalibration(
                    digest=f"fold {number + 1} of {task.options.num_folds}",
                    by_member=dict(zip(train.members, parameters.calibrations, strict=True)),
                    by_strategy=parameters.by_strategy,
                    has_choices=task.arrays.has_choices,
                    labels=task.arrays.labels,
                ),
                held_out=tuple(task.items[place] for place in places),
                train_arrays=train,
                held_out_arrays=task.arrays.take(places),
            )
        )
    return tuple(folds)


def _parameter_options(task: _FitTask) -> ParameterOptions:
    return ParameterOptions(
        strategies=task.strategies,
        conformal_alpha=task.options.conformal_alpha,
        risk_delta=task.options.risk_delta,
        withhold_below=task.options.withhold_below,
    )


def _measure_options(task: _FitTask) -> MeasureOptions:
    return MeasureOptions(
        panel=task.voters,
        answer_rule=task.options.answer_rule,
        seed=task.options.seed,
        withhold_below=task.options.withhold_below,
        cost_by_member=task.options.cost_by_member,
    )


def _member_records(task: _FitTask, parameters: Parameters, folds: Sequence[FittedFold]) -> dict[str, MemberRecord]:
    corrected = corrected_accuracies(folds)
    return {
        voter.member: member_record(
            task.arrays,
            place,
            calibration=parameters.calibrations[place],
            corrected_accuracy=corrected[place],
            fingerprint=task.options.fingerprint_by_member.get(voter.member, ""),
        )
        for place, voter in enumerate(task.voters)
    }
