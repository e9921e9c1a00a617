from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ensemble.calibration.calibration_file import Calibration
from ensemble.calibration.certify import certify
from ensemble.calibration.fit import FitOptions, fit_calibration
from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.calibration.outcomes import VoteSetup, decide_item, decide_items, votes_of
from ensemble.calibration.parameters import ParameterOptions, build_panel_sums, fit_parameters
from ensemble.calibration.risk_stops import RiskStops, measure_risk_stops
from ensemble.calibration.vote_arrays import build_arrays
from ensemble.cli.calibrate import warning_lines
from ensemble.voting.ballot import Ballot, Voter
from ensemble.voting.calibrated import EnsembleCalibration, MemberCalibration, StrategyCalibration
from ensemble.voting.short_answer import AnswerRule
from tests.calibration.orders import RANDOM, stops_by_order
from tests.calibration.simulated import Population, simulate, soft_ballot, voters_of

UNEQUAL = Population(skills=(3.0, 1.5, 1.2), families=("a", "b", "c"))
FOUR = Population(skills=(3.0, 2.0, 1.5, 1.2), families=("a", "b", "c", "d"))
NUM_LABELLED = 2500


@pytest.mark.parametrize("delta", [0.05, 0.01])
@pytest.mark.parametrize(
    ("population", "strategies"), [(UNEQUAL, ("soft_vote", "log_pool")), (FOUR, ("borda", "stacking"))]
)
def test_on_fresh_items_no_order_of_arrival_changes_more_answers_than_certified(
    population: Population, strategies: tuple[str, ...], delta: float
) -> None:
    voters, items = voters_of(population), simulate(population, NUM_LABELLED + 1500, seed=1)
    options = ParameterOptions(strategies=strategies, conformal_alpha=None, risk_delta=delta, withhold_below=0.0)

    fitted = fit_parameters(build_arrays(items[:NUM_LABELLED], voters, answer_rule=AnswerRule()), options)

    calibration = EnsembleCalibration(
        digest="x",
        by_member={voter.member: own for voter, own in zip(voters, fitted.calibrations, strict=True)},
        by_strategy=fitted.by_strategy,
    )
    for strategy in strategies:
        setup = VoteSetup(strategy=strategy, panel=voters, calibration=calibration)
        bound = max(one.bound for one in fitted.by_strategy[strategy].certificates)
        stops = stops_by_order(setup, items[NUM_LABELLED:])
        assert bound <= delta
        assert stops[RANDOM].num_stops > 50
        assert {order: one.share for order, one in stops.items() if one.share > bound} == {}


def test_votes_that_one_certificate_ends_in_one_order_only_count_against_the_others() -> None:
    """Where b comes first, the easy votes that a would have ended are not gone, and the hard ones are not either."""
    likelihoods = [(0.8, 0.97, 0.8)] * 3000 + [(0.8, 0.03, 0.8)] * 40 + [(0.75, 0.18, 0.1)] * 400
    items = [_binary_item(number, row) for number, row in enumerate(likelihoods)]
    voters = tuple(Voter(member=member, family=member) for member in "abc")
    arrays = build_arrays(items, voters, answer_rule=AnswerRule())

    certificates = certify(build_panel_sums("soft_vote", arrays, np.ones(3), np.zeros(2)), delta=0.01)

    fitted = StrategyCalibration(weight_by_member=dict.fromkeys("abc", 1.0), kappa=1.0, certificates=certificates)
    calibration = EnsembleCalibration(
        digest="x", by_member=dict.fromkeys("abc", MemberCalibration()), by_strategy={"soft_vote": fitted}
    )
    stops = stops_by_order(VoteSetup(strategy="soft_vote", panel=voters, calibration=calibration), items)
    bound = max(one.bound for one in certificates)
    assert max(one.num_stops for one in stops.values()) > 3000
    assert {order: one.share for order, one in stops.items() if one.share > bound} == {}


def _binary_item(number: int, likelihoods: tuple[float, ...]) -> ItemVotes:
    votes = tuple(soft_ballot(member, (p, 1.0 - p)) for member, p in zip("abc", likelihoods, strict=True))
    return ItemVotes(item=LabelledItem(item_id=str(number), prompt="?", choices=("yes", "no"), answer=0), votes=votes)


def test_certificates_that_do_not_hold_in_the_stored_order_are_left_out_and_told() -> None:
    voters, items = voters_of(UNEQUAL), simulate(UNEQUAL, 900, seed=1)

    honest = _calibrate(items, voters)
    setup = VoteSetup(strategy="log_pool", panel=voters, calibration=honest.to_voting())
    deceived = _calibrate([_first_where_it_is_overruled(setup, item, "m0") for item in items], voters)

    assert {"m0"} in [set(one.backers) for one in honest.strategies["log_pool"].certificates]
    assert warning_lines(honest) == []
    assert deceived.strategies["log_pool"].certificates == ()
    held_out = deceived.strategies["log_pool"].held_out
    assert held_out.num_risk_disagreements / held_out.num_risk_stops > held_out.risk_bound
    assert "log_pool has no certificates: on held-out items" in warning_lines(deceived)[0]


def _calibrate(items: list[ItemVotes], voters: tuple[Voter, ...]) -> Calibration:
    options = FitOptions(ensemble="e", strategies=("log_pool",), risk_delta=0.05, num_folds=3)
    return fit_calibration(items, voters, options=options)


def _first_where_it_is_overruled(setup: VoteSetup, item: ItemVotes, member: str) -> ItemVotes:
    """Let a member answer first where the panel answers otherwise, and last where it agrees."""
    (own,) = (vote for vote in votes_of(setup, item).values() if vote.member == member)
    is_overruled = isinstance(own, Ballot) and own.choice != decide_item(setup, item).answer
    latency_s = 0.0 if is_overruled else 1.0
    votes = (replace(vote, latency_s=latency_s if vote.member == member else 0.5) for vote in item.votes)
    return replace(item, votes=tuple(votes))


@pytest.mark.parametrize(
    ("num_disagreements", "num_stops", "is_beyond"), [(0, 0, False), (3, 100, False), (9, 300, False), (16, 107, True)]
)
def test_only_a_share_significantly_above_the_bound_breaks_it(
    num_disagreements: int, num_stops: int, *, is_beyond: bool
) -> None:
    stops = RiskStops(num_stops=num_stops, num_disagreements=num_disagreements, bound=0.028)

    assert stops.is_beyond is is_beyond


def test_without_certificates_nothing_is_stopped() -> None:
    items, setup = simulate(UNEQUAL, 5, seed=1), VoteSetup(strategy="log_pool", panel=voters_of(UNEQUAL))

    stops = measure_risk_stops([(setup, items)], decide_items(setup, items), seed=0)

    assert (stops.num_stops, stops.bound, stops.share, stops.is_beyond) == (0, 0.0, 0.0, False)
