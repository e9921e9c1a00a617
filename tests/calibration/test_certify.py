from __future__ import annotations

import numpy as np
import pytest

from ensemble.calibration.certify import certify, min_items
from ensemble.calibration.fit import FitOptions, fit_calibration
from ensemble.calibration.outcomes import VoteSetup, compare_stops, decide_items, random_arrivals, stop_item
from ensemble.calibration.partial_votes import NO_BALLOT, TIED, PanelSums
from ensemble.calibration.statistics import upper_bound
from ensemble.voting.decision import DecidedBy
from tests.calibration.simulated import Population, simulate, voters_of


def _panel(choices: list[tuple[int, int, int]], full: list[int]) -> PanelSums:
    choice_NM = np.array(choices)
    return PanelSums(
        members=("a", "b", "c"),
        parts_NMK=(choice_NM[:, :, None] == np.arange(2)).astype(float),
        prior_K=np.zeros(2),
        weight_M=np.ones(3),
        reach_N=np.ones(len(choices)),
        is_candidate_NK=np.ones((len(choices), 2), dtype=bool),
        choice_NM=choice_NM,
        full_answer_N=np.array(full),
    )


@pytest.mark.parametrize(("delta", "number"), [(0.05, 59), (0.01, 299), (0.001, 2995)])
def test_a_certificate_needs_enough_items(delta: float, number: int) -> None:
    assert min_items(delta) == number

    assert certify(_panel([(0, 0, 0)] * (number - 1), [0] * (number - 1)), delta=delta) == ()
    assert len(certify(_panel([(0, 0, 0)] * number, [0] * number), delta=delta)) == 3


def test_a_pattern_that_others_overturn_is_not_certified() -> None:
    agreeing = [(0, 0, 0)] * 200
    overturned = [(0, 1, 1)] * 20

    certificates = certify(_panel(agreeing + overturned, [0] * 200 + [1] * 20), delta=0.02)

    patterns = {(tuple(sorted(one.backers)), tuple(sorted(one.others))) for one in certificates}
    assert (("a",), ()) not in patterns
    assert (("b",), ()) in patterns
    assert (("c",), ()) in patterns


def test_the_bound_is_that_of_the_items_it_was_seen_on() -> None:
    choices = [(0, 0, 0)] * 500 + [(0, 0, 1)]

    certificates = certify(_panel(choices, [0] * 500 + [1]), delta=0.02)

    certificate = next(one for one in certificates if one.backers == {"a"} and not one.others)
    assert (certificate.num_items, certificate.num_disagreements) == (501, 1)
    assert certificate.bound == upper_bound(1, 501)


def test_a_full_panel_that_was_tied_counts_as_another_answer_and_a_silent_one_not_at_all() -> None:
    choices = [(0, 0, 0)] * 100 + [(NO_BALLOT, NO_BALLOT, NO_BALLOT)] * 50 + [(0, 0, 0)] * 20

    certificates = certify(_panel(choices, [0] * 100 + [NO_BALLOT] * 50 + [TIED] * 20), delta=0.05)

    assert certificates == ()


def test_only_margins_down_to_the_first_failure_are_certified() -> None:
    panel = _panel([(0, 0, 0)] * 400, [0] * 300 + [1] * 100)
    sure = np.linspace(1.0, 0.2, 400)[:, None, None] * np.array([1.0, 0.0])
    soft = PanelSums(
        members=panel.members,
        parts_NMK=np.repeat(sure, 3, axis=1),
        prior_K=panel.prior_K,
        weight_M=panel.weight_M,
        reach_N=panel.reach_N,
        is_candidate_NK=panel.is_candidate_NK,
        choice_NM=panel.choice_NM,
        full_answer_N=panel.full_answer_N,
    )

    certificates = certify(soft, delta=0.05)

    assert all(0.35 < one.min_margin < 0.9 for one in certificates)
    assert all(one.num_disagreements <= 5 and one.bound <= 0.05 for one in certificates)


def test_on_fresh_items_the_risk_stop_disagrees_no_more_than_certified() -> None:
    population = Population(skills=(3.0, 2.6, 2.4, 2.2), families=("a", "b", "c", "d"), shared_noise=0.8)
    voters = voters_of(population)
    items = simulate(population, 3000, seed=4)
    options = FitOptions(ensemble="e", strategies=("soft_vote", "log_pool"), risk_delta=0.01, num_folds=3)

    calibration = fit_calibration(items[:1500], voters, options=options)

    for strategy in options.strategies:
        setup = VoteSetup(strategy=strategy, panel=voters, calibration=calibration.to_voting())
        full = decide_items(setup, items[1500:])
        stopped = [stop_item(setup, item, random_arrivals(item), with_risk=True) for item in items[1500:]]
        figures = compare_stops(full, stopped, num_members=4)
        by_risk = [one.decision.decided_by is DecidedBy.RISK_QUORUM for one in stopped if one.decision]
        bound = max(one.bound for one in calibration.strategies[strategy].certificates)
        held_out = calibration.strategies[strategy].held_out
        assert bound <= 0.01
        assert sum(by_risk) > 100
        assert figures.num_disagreements <= bound * sum(by_risk)
        assert held_out.num_risk_disagreements <= held_out.risk_bound * held_out.num_risk_stops
        assert figures.saving > 0.05
