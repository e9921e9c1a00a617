"""An ensemble as the router runs it, from its config and its calibration."""

from __future__ import annotations

from dataclasses import replace

from ensemble.generation import GenerationParameters
from ensemble.router.config import EnsembleConfig
from ensemble.router.election import Ensemble
from ensemble.voting.asking import AskPlan
from ensemble.voting.ballot import Voter
from ensemble.voting.calibrated import EnsembleCalibration, StrategyCalibration
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import Quorum, SecondRound


def build_ensemble(
    config: EnsembleConfig, voters: tuple[Voter, ...], calibration: EnsembleCalibration | None
) -> Ensemble:
    """Make an ensemble; ``voters`` are its members with the weights of the spec."""
    return Ensemble(
        name=config.name,
        voters=voters,
        classify_strategy=config.classify_strategy,
        generate_strategy=config.generate_strategy,
        quorum=Quorum(
            min_weight=config.quorum.min_weight,
            min_families=config.quorum.min_families,
            stop_early=config.quorum.stop_early,
        ),
        fail_without_quorum=config.quorum.on_missed == "fail",
        answer_rule=AnswerRule(extract=config.answer.extract, pattern=config.answer.pattern),
        parameters=GenerationParameters(**config.generation.model_dump()),
        calibration=_calibration(config, calibration),
        plan=_plan(config),
        assistant_by_round=_assistants(config),
    )


def _calibration(config: EnsembleConfig, calibration: EnsembleCalibration | None) -> EnsembleCalibration | None:
    """Keep of a calibration what the spec wants: its own threshold, and certificates that bound the risk so far."""
    if calibration is None:
        return None

    def wanted(fitted: StrategyCalibration) -> StrategyCalibration:
        allowed = (one for one in fitted.certificates if one.bound <= config.quorum.risk)
        withhold_below = fitted.withhold_below if config.abstain_below is None else config.abstain_below
        return replace(fitted, withhold_below=withhold_below, certificates=tuple(allowed))

    by_strategy = {name: wanted(fitted) for name, fitted in calibration.by_strategy.items()}
    return replace(calibration, by_strategy=by_strategy)


def _plan(config: EnsembleConfig) -> AskPlan | None:
    asking = config.asking
    if asking.policy == "all":
        return None
    return AskPlan(stages=asking.stages, rule=asking.policy, min_confidence=asking.min_confidence)


def _assistants(config: EnsembleConfig) -> dict[SecondRound, str]:
    named = {kind: config.assistants.for_round(kind)[1] for kind in SecondRound}
    return {kind: member for kind, member in named.items() if member}
