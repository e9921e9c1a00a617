"""Accuracies without labels, from agreement alone; what comes of it is uncalibrated and says so."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ensemble.voting.ballot import Voter

_EDGE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFreeFit:
    """What agreement alone says: accuracy by family, a weight by member, and by item its likeliest answer.

    ``is_calibrated`` is never true: nothing here was checked against an answer, and members that err together look
    right together.
    """

    accuracy_by_family: Mapping[str, float]
    weight_by_member: Mapping[str, float]
    posterior_by_item: tuple[Mapping[str, float], ...]
    num_rounds: int
    is_calibrated: bool = False


def fit_without_labels(
    choices: Sequence[Mapping[str, str]],
    voters: Sequence[Voter],
    *,
    num_choices: int,
    max_rounds: int = 100,
    tolerance: float = 1e-6,
) -> LabelFreeFit:
    """Estimate accuracies by one-coin Dawid-Skene (Dawid & Skene 1979; Zhang et al. 2014, arXiv:1406.3824), by EM.

    ``choices`` has for every item the choice of each member that gave a ballot. Each family first becomes one worker
    (its most frequent choice, that of the member declared first among equals), and members share their worker's
    log-odds weight. A worker is right with its accuracy, else it names each of the other ``num_choices`` - 1 alike.
    """
    families = list(dict.fromkeys(voter.family for voter in voters))
    reports = [_collapse(item, voters) for item in choices]
    accuracy = dict.fromkeys(families, 0.0)
    posteriors = [_shares(Counter(report.values())) for report in reports]
    num_rounds = 0
    for num_rounds in range(1, max_rounds + 1):  # noqa: B007  the last is told
        previous, accuracy = accuracy, {family: _accuracy(family, reports, posteriors) for family in families}
        posteriors = [_posterior(report, accuracy, num_choices) for report in reports]
        if max(abs(accuracy[family] - previous[family]) for family in families) < tolerance:
            break
    sizes = Counter(voter.family for voter in voters)
    return LabelFreeFit(
        accuracy_by_family=accuracy,
        weight_by_member={
            voter.member: max(_log_odds(accuracy[voter.family], num_choices), 0.0) / sizes[voter.family]
            for voter in voters
        },
        posterior_by_item=tuple(posteriors),
        num_rounds=num_rounds,
    )


def _collapse(item: Mapping[str, str], voters: Sequence[Voter]) -> dict[str, str]:
    """Make each family one worker; families without a ballot say nothing."""
    choices_by_family: dict[str, list[str]] = {}
    for voter in voters:
        if voter.member in item:
            choices_by_family.setdefault(voter.family, []).append(item[voter.member])
    # most_common keeps the order of first sight among equals
    return {family: Counter(choices).most_common(1)[0][0] for family, choices in choices_by_family.items()}


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {choice: count / total for choice, count in counts.items()}


def _accuracy(family: str, reports: Sequence[Mapping[str, str]], posteriors: Sequence[Mapping[str, float]]) -> float:
    shares = [
        posterior[report[family]] for report, posterior in zip(reports, posteriors, strict=True) if family in report
    ]
    return math.fsum(shares) / len(shares) if shares else 0.0


def _posterior(report: Mapping[str, str], accuracy: Mapping[str, float], num_choices: int) -> dict[str, float]:
    """Weigh the choices that were named; those that nobody named share one further candidate's sum of 0 each."""
    sums = dict.fromkeys(report.values(), 0.0)
    for family, choice in report.items():
        sums[choice] += _log_odds(accuracy[family], num_choices)
    largest = max(*sums.values(), 0.0) if sums else 0.0
    powers = {choice: math.exp(value - largest) for choice, value in sums.items()}
    total = math.fsum(powers.values()) + max(num_choices - len(powers), 0) * math.exp(-largest)
    return {choice: power / total for choice, power in powers.items()}


def _log_odds(accuracy: float, num_choices: int) -> float:
    clipped = min(max(accuracy, _EDGE), 1.0 - _EDGE)
    return math.log(clipped * (num_choices - 1) / (1.0 - clipped))
