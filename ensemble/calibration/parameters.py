"""Everything that is fitted on labelled votes: corrections, weights, kappa, priors, label sets and certificates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ensemble.calibration.certify import certify
from ensemble.calibration.conformal import conformal_threshold
from ensemble.calibration.member_fit import fit_member, log_softmax
from ensemble.calibration.partial_votes import NO_BALLOT, TIED, PanelSums
from ensemble.calibration.pooling import PoolFit, fit_pool, fit_stacking, negative_log_likelihood
from ensemble.calibration.statistics import Floats
from ensemble.calibration.sums import add_up, counted_weights, reach_of, shares_of
from ensemble.calibration.vote_arrays import Indices, VoteArrays
from ensemble.calibration.weights import (
    collision_rate,
    family_discounts,
    family_error_correlations,
    log_odds_weights,
    shrunk_accuracies,
)
from ensemble.voting.calibrated import MemberCalibration, StrategyCalibration
from ensemble.voting.strategy import Certificate

_NUM_INNER_FOLDS = 4
_STACKING_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
_LOG_ODDS_KAPPA = 2.0
_OTHER_KAPPA = 20.0
"""Heads, points and linear pools are no log-odds: their scale is another one."""
_MAX_KAPPA = {"majority": _OTHER_KAPPA, "soft_vote": _OTHER_KAPPA, "borda": _OTHER_KAPPA}
_TIE = 1e-9

_Variant = tuple[str, float]
"""A strategy and the penalty of its weights; 0 where weights are not regularised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterOptions:
    """What to fit; see FitOptions for the meanings."""

    strategies: tuple[str, ...]
    conformal_alpha: float | None
    risk_delta: float | None
    withhold_below: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What was fitted; calibrations are in the members' order."""

    calibrations: tuple[MemberCalibration, ...]
    collision: float
    correlation_by_family: Mapping[str, float]
    by_strategy: Mapping[str, StrategyCalibration]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """Corrections, and weights for each variant of a strategy."""

    calibrations: tuple[MemberCalibration, ...]
    collision: float
    correlation_by_family: Mapping[str, float]
    weights_by_variant: Mapping[_Variant, Floats]

    def sums(self, arrays: VoteArrays) -> dict[_Variant, Floats]:
        """Give the sums of votes that are not corrected yet."""
        corrected = arrays.correct(self.calibrations)
        return {
            variant: add_up(shares_of(variant[0], corrected), counted_weights(variant[0], weight_M))
            for variant, weight_M in self.weights_by_variant.items()
        }


def fit_parameters(arrays: VoteArrays, options: ParameterOptions) -> Parameters:
    """Fit everything on these items, which stand in an order that says nothing about them.

    Corrections and weights come from all items; kappa, priors and stacking's penalty from sums of items whose
    corrections and weights were fitted without them, since sums fitted on an item flatter it. For the label sets'
    threshold kappa and priors are cross-fitted, too.
    """
    outside = _outside_sums(arrays, options.strategies)
    chosen = {name: _best_variant(name, outside, arrays) for name in options.strategies}
    model = _fit_model(arrays, tuple(chosen.values()))
    by_strategy = {}
    for name, variant in chosen.items():
        pool = _fit_pool(arrays, outside[variant], name)
        by_strategy[name] = _strategy_calibration(arrays, outside[variant], (model, variant), pool, options=options)
    return Parameters(
        calibrations=model.calibrations,
        collision=model.collision,
        correlation_by_family=model.correlation_by_family,
        by_strategy=by_strategy,
    )


def independence_sums(train: VoteArrays, held_out: VoteArrays, strategy: str) -> Floats:
    """Give the sums of the independence formula, whose posterior is their softmax: raw ballots, no family discount."""
    weight_M = np.ones(len(train.members)) if strategy in ("log_pool", "stacking") else _log_odds(train)[1]
    return add_up(shares_of(strategy, held_out), counted_weights(strategy, weight_M))


def build_panel_sums(strategy: str, corrected: VoteArrays, weight_M: Floats, log_prior_K: Floats) -> PanelSums:
    """Give what certificates are made from: a strategy's sums of corrected votes, with these weights and priors."""
    counted_M = counted_weights(strategy, weight_M)
    parts_NMK = shares_of(strategy, corrected) * counted_M[None, :, None]
    sums_NK = np.where(corrected.is_candidate_NK, parts_NMK.sum(axis=1) + log_prior_K, -np.inf)
    return PanelSums(
        members=corrected.members,
        parts_NMK=parts_NMK,
        prior_K=log_prior_K,
        weight_M=counted_M,
        reach_N=reach_of(strategy, corrected),
        is_candidate_NK=corrected.is_candidate_NK,
        choice_NM=corrected.choice_NM,
        full_answer_N=_clear_answers(sums_NK, float(np.abs(counted_M).sum()), corrected),
    )


def _outside_sums(arrays: VoteArrays, strategies: tuple[str, ...]) -> dict[_Variant, Floats]:
    variants: list[_Variant] = []
    for name in strategies:
        variants.extend((name, penalty) for penalty in (_STACKING_PENALTIES if name == "stacking" else (0.0,)))
    sums = {variant: np.zeros(arrays.is_candidate_NK.shape) for variant in variants}
    for inside, outside in _inner_folds(arrays):
        model = _fit_model(arrays.take(inside), tuple(variants))
        for variant, part in model.sums(arrays.take(outside)).items():
            sums[variant][outside] = part
    return sums


def _inner_folds(arrays: VoteArrays) -> Iterator[tuple[Indices, Indices]]:
    fold_N = np.arange(len(arrays.answer_N)) % _NUM_INNER_FOLDS
    for fold in range(_NUM_INNER_FOLDS):
        yield np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)


def _fit_pool(arrays: VoteArrays, sums_NK: Floats, strategy: str) -> PoolFit:
    return fit_pool(
        sums_NK,
        arrays.is_candidate_NK,
        arrays.answer_N,
        max_kappa=_MAX_KAPPA.get(strategy, _LOG_ODDS_KAPPA),
        with_prior=bool(arrays.labels),
    )


def _outside_probabilities(arrays: VoteArrays, outside_NK: Floats, strategy: str) -> Floats:
    """Give every item's probability of its answer, by a kappa and priors that were fitted without it, as its sums."""
    probability_N = np.zeros(len(arrays.answer_N))
    for inside, outside in _inner_folds(arrays):
        pool = _fit_pool(arrays.take(inside), outside_NK[inside], strategy)
        logits = pool.kappa * (outside_NK[outside] + pool.log_prior_K)
        probabilities = np.exp(log_softmax(np.where(arrays.is_candidate_NK[outside], logits, -np.inf)))
        probability_N[outside] = probabilities[np.arange(len(outside)), arrays.answer_N[outside]]
    return probability_N


def _best_variant(name: str, outside: Mapping[_Variant, Floats], arrays: VoteArrays) -> _Variant:
    """Choose the penalty under which items that were not fitted on are likeliest; the strongest among equals."""
    variants = [variant for variant in outside if variant[0] == name]
    return min(
        reversed(variants),
        key=lambda variant: negative_log_likelihood(outside[variant], arrays.is_candidate_NK, arrays.answer_N),
    )


def _fit_model(arrays: VoteArrays, variants: tuple[_Variant, ...]) -> _Model:
    calibrations = tuple(_fit_correction(arrays, place) for place in range(len(arrays.members)))
    corrected = arrays.correct(calibrations)
    collision, log_odds_M = _log_odds(corrected)
    correlations = family_error_correlations(corrected.is_correct_MN, arrays.families)
    discount_M = family_discounts(arrays.families, correlations)
    weights: dict[_Variant, Floats] = {}
    centre_M = (
        _stacking_centre(corrected, discount_M) if any(name == "stacking" for name, _ in variants) else discount_M
    )
    for name, penalty in variants:
        if name == "stacking":
            weights[name, penalty] = fit_stacking(
                shares_of(name, corrected),
                corrected.is_candidate_NK,
                corrected.answer_N,
                centre_M=centre_M,
                penalty=penalty,
            )
        else:
            # A corrected probability says already how much a member knows: log_pool needs the discount alone.
            weights[name, penalty] = discount_M if name == "log_pool" else log_odds_M * discount_M
    return _Model(
        calibrations=calibrations,
        collision=collision,
        correlation_by_family=correlations,
        weights_by_variant=weights,
    )


def _fit_correction(arrays: VoteArrays, place: int) -> MemberCalibration:
    is_cast = arrays.has_ballot_NM[:, place]
    if not arrays.has_probabilities or not is_cast.any():
        return MemberCalibration()
    temperature, bias_K = fit_member(
        arrays.log_probability_NMK[is_cast, place],
        arrays.is_candidate_NK[is_cast],
        arrays.answer_N[is_cast],
        with_bias=bool(arrays.labels),
    )
    return MemberCalibration(
        temperature=temperature, bias_by_label=dict(zip(arrays.labels, bias_K.tolist(), strict=False))
    )


def _log_odds(arrays: VoteArrays) -> tuple[float, Floats]:
    is_correct_MN = arrays.is_correct_MN
    collision = collision_rate(arrays.choice_NM.T, arrays.answer_N, chance=arrays.chance)
    accuracy_M = shrunk_accuracies(
        np.nansum(is_correct_MN, axis=1), (~np.isnan(is_correct_MN)).sum(axis=1), chance=arrays.chance
    )
    return collision, log_odds_weights(accuracy_M, collision=collision, chance=arrays.chance)


def _stacking_centre(corrected: VoteArrays, discount_M: Floats) -> Floats:
    """Give the best multiple of the logarithmic pool, to which stacking shrinks."""
    pooled = add_up(shares_of("stacking", corrected), discount_M)
    pool = fit_pool(pooled, corrected.is_candidate_NK, corrected.answer_N, max_kappa=_LOG_ODDS_KAPPA, with_prior=False)
    return np.asarray(pool.kappa * discount_M, dtype=np.float64)


def _strategy_calibration(
    arrays: VoteArrays, outside_NK: Floats, source: tuple[_Model, _Variant], pool: PoolFit, *, options: ParameterOptions
) -> StrategyCalibration:
    model, variant = source
    weight_M = model.weights_by_variant[variant]
    threshold = None
    if arrays.has_choices and (alpha := options.conformal_alpha) is not None:
        threshold = conformal_threshold(_outside_probabilities(arrays, outside_NK, variant[0]), alpha=alpha)
    certificates: tuple[Certificate, ...] = ()
    if options.risk_delta is not None:
        panel = build_panel_sums(variant[0], arrays.correct(model.calibrations), weight_M, pool.log_prior_K)
        certificates = certify(panel, delta=options.risk_delta)
    return StrategyCalibration(
        weight_by_member=dict(zip(arrays.members, weight_M.tolist(), strict=True)),
        kappa=pool.kappa,
        log_prior_by_label=dict(zip(arrays.labels, pool.log_prior_K.tolist(), strict=False)),
        withhold_below=options.withhold_below,
        conformal_threshold=threshold,
        certificates=certificates,
    )


def _clear_answers(sums_NK: Floats, weight: float, arrays: VoteArrays) -> Indices:
    """Give the full panel's answers as certificates compare them."""
    second_N, first_N = np.partition(sums_NK, -2, axis=1)[:, -2:].T
    answers = np.where(first_N - second_N > _TIE * weight, sums_NK.argmax(axis=1), TIED)
    return np.where(arrays.has_ballot_NM.any(axis=1), answers, NO_BALLOT)
