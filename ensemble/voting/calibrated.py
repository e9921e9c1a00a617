"""What labelled items taught about an ensemble, and how it changes ballots and questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ensemble.errors import ConfigError
from ensemble.voting.ballot import Ballot, Voter
from ensemble.voting.short_answer import AnswerRule
from ensemble.voting.strategy import Certificate, Question, Quorum, VoteCalibration

FLOOR = 1e-12
"""Probabilities below it are taken for it before their logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberCalibration:
    """One member's own correction: P'(y) in proportion to exp((ln P(y) + bias_y) / temperature).

    ``temperature`` is above 0; ``bias_by_label`` (natural logarithm) is empty when labels change from item to item.
    """

    temperature: float = 1.0
    bias_by_label: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyCalibration:
    """What one strategy uses: a weight a member, and the fields of VoteCalibration, priors by label."""

    weight_by_member: Mapping[str, float]
    kappa: float
    log_prior_by_label: Mapping[str, float] = field(default_factory=dict)
    withhold_below: float = 0.0
    conformal_threshold: float | None = None
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleCalibration:
    """Everything learned about one ensemble; ``digest`` names it.

    It was learned on questions with choices (``has_choices``), always the same ones where ``labels`` is not empty, and
    says nothing about others.
    """

    digest: str
    by_member: Mapping[str, MemberCalibration]
    by_strategy: Mapping[str, StrategyCalibration]
    has_choices: bool = True
    labels: tuple[str, ...] = ()

    @property
    def members(self) -> frozenset[str]:
        """Those that it was made for."""
        return frozenset(self.by_member)

    def is_for(self, choices: Sequence[str]) -> bool:
        """Say whether it was learned on questions like one with these choices."""
        if self.labels and set(choices) != set(self.labels):
            return False
        return bool(choices) == self.has_choices


def calibrate_ballot(ballot: Ballot, choices: Sequence[str], calibration: MemberCalibration) -> Ballot:
    """Correct a ballot that has one probability a choice; its choice is then the likeliest, the first of equals.

    Every other ballot stays as it is.
    """
    if not choices or len(ballot.probabilities) != len(choices):
        return ballot
    logits = [
        (math.log(max(probability, FLOOR)) + calibration.bias_by_label.get(choice, 0.0)) / calibration.temperature
        for probability, choice in zip(ballot.probabilities, choices, strict=True)
    ]
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    total = math.fsum(powers)
    best = max(range(len(choices)), key=logits.__getitem__)
    # The log-probability is that of the choice that the member made itself.
    logprob = ballot.logprob if ballot.choice in {None, choices[best]} else None
    probabilities = tuple(power / total for power in powers)
    return replace(ballot, choice=choices[best], probabilities=probabilities, logprob=logprob)


def build_question(
    calibration: EnsembleCalibration | None,
    strategy: str,
    panel: tuple[Voter, ...],
    *,
    quorum: Quorum,
    choices: tuple[str, ...] = (),
    answer_rule: AnswerRule = AnswerRule(),
) -> Question:
    """Ask a panel by a strategy, with the weights and sums that it was calibrated for, if it was on such questions.

    On a panel that is not the calibrated one weights and kappa stay, while certificates and label sets, which are
    statements about that very panel, fall away.

    Raises:
        ConfigError: the calibration knows the strategy and lacks a weight for a member.
    """
    fitted = calibration.by_strategy.get(strategy) if calibration and calibration.is_for(choices) else None
    if calibration is None or fitted is None:
        return Question(panel=panel, quorum=quorum, choices=choices, answer_rule=answer_rule)
    missing = [voter.member for voter in panel if voter.member not in fitted.weight_by_member]
    if missing:
        raise ConfigError("calibration", f"it has no weight for {', '.join(missing)}", "calibrate these members")
    is_whole = {voter.member for voter in panel} == calibration.members
    has_priors = bool(choices) and all(choice in fitted.log_prior_by_label for choice in choices)
    return Question(
        panel=tuple(replace(voter, weight=fitted.weight_by_member[voter.member]) for voter in panel),
        quorum=quorum,
        choices=choices,
        answer_rule=answer_rule,
        calibration=VoteCalibration(
            kappa=fitted.kappa,
            log_priors=tuple(fitted.log_prior_by_label[choice] for choice in choices) if has_priors else (),
            withhold_below=fitted.withhold_below,
            conformal_threshold=fitted.conformal_threshold if is_whole else None,
            certificates=fitted.certificates if is_whole else (),
            digest=calibration.digest,
        ),
    )
