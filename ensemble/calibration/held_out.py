"""How a calibration does on items that it was not fitted on, and the records that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.calibration.calibration_file import (
    CertificateRecord,
    GateRecord,
    HeldOutRecord,
    MemberRecord,
    StageRecord,
    StrategyRecord,
    SureRecord,
)
from ensemble.calibration.items import ItemVotes
from ensemble.calibration.member_fit import log_softmax
from ensemble.calibration.outcomes import (
    Outcome,
    VoteSetup,
    decide_items,
    reference_answer,
    sure_answers,
)
from ensemble.calibration.parameters import independence_sums
from ensemble.calibration.risk_stops import RiskStops, measure_risk_stops
from ensemble.calibration.statistics import Bools, accuracy_interval, calibration_error, mcnemar
from ensemble.calibration.vote_arrays import VoteArrays
from ensemble.voting.ballot import Voter
from ensemble.voting.calibrated import EnsembleCalibration, MemberCalibration, StrategyCalibration
from ensemble.voting.short_answer import AnswerRule


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedFold:
    """What was fitted without ``held_out``, and both parts of the items as arrays."""

    calibration: EnsembleCalibration
    held_out: tuple[ItemVotes, ...]
    train_arrays: VoteArrays
    held_out_arrays: VoteArrays


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureOptions:
    """Whom to ask, how short answers are read, the seed of the order of arrival, and what is too unsure to answer.

    ``cost_by_member``, where given, is what asking a member costs: stages are measured, the cheapest asked first.
    """

    panel: tuple[Voter, ...]
    answer_rule: AnswerRule = AnswerRule()
    seed: int = 0
    withhold_below: float = 0.0
    cost_by_member: Mapping[str, float] | None = None


def build_setups(name: str, folds: Sequence[FittedFold], options: MeasureOptions) -> list[VoteSetup]:
    """Say how each fold's held-out items are counted."""
    return [
        VoteSetup(strategy=name, panel=options.panel, calibration=fold.calibration, answer_rule=options.answer_rule)
        for fold in folds
    ]


def measure_strategy(name: str, folds: Sequence[FittedFold], *, options: MeasureOptions) -> HeldOutRecord:
    """Count every held-out item by the real tally, as the server would with the fold's calibration."""
    setups = build_setups(name, folds, options)
    items = [item for fold in folds for item in fold.held_out]
    outcomes = [
        outcome for setup, fold in zip(setups, folds, strict=True) for outcome in decide_items(setup, fold.held_out)
    ]
    correct_N = np.array([outcome.is_correct for outcome in outcomes])
    interval = accuracy_interval(int(correct_N.sum()), len(outcomes))
    best = _best_member(folds)
    comparison = mcnemar(correct_N, best.is_correct_N)
    fold_items = [(setup, fold.held_out) for setup, fold in zip(setups, folds, strict=True)]
    risk = measure_risk_stops(fold_items, outcomes, seed=options.seed)
    sizes, covered = _label_sets(items, outcomes)
    return HeldOutRecord(
        num_items=len(outcomes),
        accuracy=float(correct_N.mean()),
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        ece_before=_independence_error(name, folds),
        ece_after=calibration_error([outcome.confidence or 0.0 for outcome in outcomes], correct_N),
        best_member=best.member,
        is_best_corrected=best.is_corrected,
        num_gained=comparison.num_gained,
        num_lost=comparison.num_lost,
        p_value=comparison.p_value,
        label_set_coverage=float(np.mean(covered)) if sizes else None,
        mean_label_set_size=float(np.mean(sizes)) if sizes else None,
        num_risk_stops=risk.num_stops,
        num_risk_disagreements=risk.num_disagreements,
        risk_bound=risk.bound,
        sure=tuple(
            SureRecord(min_confidence=one.min_confidence, share=one.share, accuracy=one.accuracy)
            for one in sure_answers(outcomes, withhold_below=options.withhold_below)
        ),
    )


def corrected_accuracies(folds: Sequence[FittedFold]) -> list[float]:
    """Give every member's accuracy after its correction, on held-out items; an abstention is wrong."""
    return [float(row.mean()) for row in _corrected_correct(folds)]


def member_record(
    arrays: VoteArrays, place: int, *, calibration: MemberCalibration, corrected_accuracy: float, fingerprint: str
) -> MemberRecord:
    """Describe one member by what it said as it is."""
    is_correct_N = arrays.is_correct_MN[place]
    num_items, num_correct = len(is_correct_N), int(np.nansum(is_correct_N))
    num_abstained = int(np.isnan(is_correct_N).sum())
    interval = accuracy_interval(num_correct, num_items)
    return MemberRecord(
        family=arrays.families[place],
        fingerprint=fingerprint,
        num_items=num_items,
        num_abstained=num_abstained,
        accuracy=num_correct / num_items,
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        corrected_accuracy=corrected_accuracy,
        is_below_chance=arrays.has_choices and num_correct < arrays.chance * (num_items - num_abstained),
        temperature=calibration.temperature,
        bias_by_label=dict(calibration.bias_by_label),
    )


def strategy_record(
    fitted: StrategyCalibration,
    held_out: HeldOutRecord,
    stages: tuple[StageRecord, ...],
    *,
    alpha: float | None,
    delta: float | None,
) -> StrategyRecord:
    """Put what was fitted beside how it did; certificates that did not hold on held-out items are left out."""
    certificates = () if risk_stops_of(held_out).is_beyond else fitted.certificates
    return StrategyRecord(
        weight_by_member=dict(fitted.weight_by_member),
        kappa=fitted.kappa,
        log_prior_by_label=dict(fitted.log_prior_by_label),
        withhold_below=fitted.withhold_below,
        conformal_alpha=None if fitted.conformal_threshold is None else alpha,
        conformal_threshold=fitted.conformal_threshold,
        risk_delta=delta,
        certificates=tuple(
            CertificateRecord(
                backers=tuple(sorted(one.backers)),
                others=tuple(sorted(one.others)),
                min_margin=one.min_margin,
                num_items=one.num_items,
                num_disagreements=one.num_disagreements,
                bound=one.bound,
            )
            for one in certificates
        ),
        stages=stages,
        held_out=held_out,
    )


def risk_stops_of(held_out: HeldOutRecord) -> RiskStops:
    """Give what a record says about risk stops."""
    return RiskStops(
        num_stops=held_out.num_risk_stops,
        num_disagreements=held_out.num_risk_disagreements,
        bound=held_out.risk_bound,
    )


def build_gate(held_out: Mapping[str, HeldOutRecord], *, significance: float) -> GateRecord:
    """Say whether the best strategy beats the best member, its p-value times the number of strategies tried.

    The best member is the one that every strategy was compared with, as it is or corrected: a gain must come from the
    vote, and not from what a correction gives to one member alone.
    """
    strategy, best = max(held_out.items(), key=lambda entry: entry[1].accuracy)
    p_value = min(best.p_value * len(held_out), 1.0)
    is_gain = best.num_gained > best.num_lost and p_value < significance
    member_accuracy = best.accuracy - (best.num_gained - best.num_lost) / best.num_items
    verdict = "The ensemble beats its best member" if is_gain else "The ensemble does not beat its best member"
    advice = "" if is_gain else f"; {best.best_member} alone would do"
    alone = f"{best.best_member} alone{', with its own calibration,' if best.is_best_corrected else ''}"
    return GateRecord(
        strategy=strategy,
        best_member=best.best_member,
        is_best_corrected=best.is_best_corrected,
        p_value=p_value,
        significance=significance,
        is_gain_claimed=is_gain,
        sentence=(
            f"{verdict}: {strategy} is right on {best.accuracy:.3f} of {best.num_items} held-out items, "
            f"{alone} on {member_accuracy:.3f} (exact McNemar p = {p_value:.2g}, "
            f"Bonferroni over {len(held_out)} strategies){advice}."
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _BestMember:
    """The best single member, as it is or corrected, and the held-out items that it has right."""

    member: str
    is_corrected: bool
    is_correct_N: Bools


def _best_member(folds: Sequence[FittedFold]) -> _BestMember:
    """Find the best single member; of equals the one declared first, and as it is."""
    raw = np.concatenate([fold.held_out_arrays.is_correct_MN for fold in folds], axis=1) == 1.0
    ways = [
        _BestMember(member=member, is_corrected=is_corrected, is_correct_N=is_correct_N)
        for member, *rows in zip(folds[0].train_arrays.members, raw, _corrected_correct(folds), strict=True)
        for is_corrected, is_correct_N in zip((False, True), rows, strict=True)
    ]
    return max(ways, key=lambda way: int(way.is_correct_N.sum()))


def _corrected_correct(folds: Sequence[FittedFold]) -> Bools:
    parts = []
    for fold in folds:
        calibrations = [fold.calibration.by_member[member] for member in fold.train_arrays.members]
        parts.append(fold.held_out_arrays.correct(calibrations).is_correct_MN == 1.0)
    return np.concatenate(parts, axis=1)


def _independence_error(name: str, folds: Sequence[FittedFold]) -> float:
    confidences, correct = [], []
    for fold in folds:
        arrays = fold.held_out_arrays
        sums_NK = independence_sums(fold.train_arrays, arrays, name)
        posterior = np.exp(log_softmax(np.where(arrays.is_candidate_NK, sums_NK, -np.inf)))
        confidences.append(posterior.max(axis=1))
        correct.append(posterior.argmax(axis=1) == arrays.answer_N)
    return calibration_error(np.concatenate(confidences), np.concatenate(correct))


def _label_sets(items: Sequence[ItemVotes], outcomes: Sequence[Outcome]) -> tuple[list[int], list[bool]]:
    sizes, covered = [], []
    for item, outcome in zip(items, outcomes, strict=True):
        if outcome.decision and outcome.decision.label_set:
            sizes.append(len(outcome.decision.label_set))
            covered.append(reference_answer(item.item) in outcome.decision.label_set)
    return sizes, covered
