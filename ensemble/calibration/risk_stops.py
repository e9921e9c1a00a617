"""How often votes that certificates ended got another answer than the full panel's, on items not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ensemble.calibration.items import ItemVotes
from ensemble.calibration.outcomes import Outcome, VoteSetup, latency_arrivals, random_arrivals, stop_item
from ensemble.calibration.statistics import lower_bound
from ensemble.voting.decision import DecidedBy


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskStops:
    """Votes that certificates ended, those of them that got another answer, and the largest bound of a certificate."""

    num_stops: int
    num_disagreements: int
    bound: float

    @property
    def share(self) -> float:
        """The share of the votes stopped that got another answer."""
        return self.num_disagreements / self.num_stops if self.num_stops else 0.0

    @property
    def is_beyond(self) -> bool:
        """Whether the share is significantly above the bound (one-sided, 95 %): the certificates do not hold."""
        return lower_bound(self.num_disagreements, self.num_stops) > self.bound


def measure_risk_stops(
    folds: Sequence[tuple[VoteSetup, Sequence[ItemVotes]]], full: Sequence[Outcome], *, seed: int
) -> RiskStops:
    """Stop votes by certificates in a random order of arrival and in the stored one; the worse of both is told."""
    full_by_id = {outcome.item_id: outcome for outcome in full}
    orders: tuple[Callable[[ItemVotes], Sequence[str]], ...] = (
        lambda item: random_arrivals(item, seed=seed),
        latency_arrivals,
    )
    return max((_measure(folds, full_by_id, order) for order in orders), key=lambda stops: stops.share)


def count_risk_stops(stopped: Sequence[Outcome], full_by_id: Mapping[str, Outcome], *, bound: float) -> RiskStops:
    """Count among votes that were stopped those that a certificate ended."""
    ended = [one for one in stopped if one.decision and one.decision.decided_by is DecidedBy.RISK_QUORUM]
    changed = [one for one in ended if one.answer != full_by_id[one.item_id].answer]
    return RiskStops(num_stops=len(ended), num_disagreements=len(changed), bound=bound)


def largest_bound(setups: Sequence[VoteSetup]) -> float:
    """Give the largest bound of a certificate that these setups may use; 0 without any."""
    fitted = [setup.calibration.by_strategy.get(setup.strategy) for setup in setups if setup.calibration]
    return max((certificate.bound for one in fitted if one for certificate in one.certificates), default=0.0)


def _measure(
    folds: Sequence[tuple[VoteSetup, Sequence[ItemVotes]]],
    full_by_id: Mapping[str, Outcome],
    order: Callable[[ItemVotes], Sequence[str]],
) -> RiskStops:
    stopped = []
    for setup, items in folds:
        if not largest_bound([setup]):
            continue
        members = {voter.member for voter in setup.panel}
        for item in items:
            arrivals = [member for member in order(item) if member in members]
            stopped.append(stop_item(setup, item, arrivals, with_risk=True))
    return count_risk_stops(stopped, full_by_id, bound=largest_bound([setup for setup, _ in folds]))
