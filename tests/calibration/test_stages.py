from __future__ import annotations

import pytest

from ensemble.calibration.fit import FitOptions, cross_fit
from ensemble.calibration.items import ItemVotes
from ensemble.calibration.outcomes import (
    VoteSetup,
    compare_stops,
    decide_items,
    latency_arrivals,
    question_of,
    random_arrivals,
    stop_item,
    votes_of,
)
from ensemble.calibration.stages import (
    SetupFold,
    build_plans,
    choose_held_out,
    choose_threshold,
    is_too_much,
    measure_plan,
    threshold_figures,
)
from ensemble.calibration.statistics import McNemar
from ensemble.errors import ConfigError
from ensemble.voting.asking import AskPlan, is_enough
from ensemble.voting.decision import DecidedBy
from ensemble.voting.registry import get_strategy
from tests.calibration.simulated import Population, simulate, voters_of

GOOD = Population(skills=(2.2, 2.2, 2.4, 2.6), families=tuple("abcd"), shared_noise=0.5)
POOR_FIRST = Population(skills=(0.2, 0.2, 3.0, 3.2), families=tuple("aabc"), family_noise=1.5)
STAGES = (("m0", "m1"), ("m2", "m3"))


def _folds(population: Population) -> list[SetupFold]:
    voters = voters_of(population)
    options = FitOptions(ensemble="e", strategies=("log_pool",), risk_delta=None, num_folds=3)
    folds = cross_fit(simulate(population, 300, seed=6), voters, options=options)
    return [
        (VoteSetup(strategy="log_pool", panel=voters, calibration=fold.calibration), fold.held_out) for fold in folds
    ]


def test_lower_thresholds_ask_fewer_and_the_cheapest_harmless_one_is_chosen() -> None:
    figures = threshold_figures(AskPlan(stages=STAGES, rule="staged"), _folds(GOOD), thresholds=(0.6, 0.9, 0.99))

    chosen = choose_threshold(figures)

    assert [one.plan.min_confidence for one in figures] == [0.99, 0.9, 0.6]
    assert figures[0].saving <= figures[1].saving <= figures[2].saving
    assert figures[2].mean_asked == pytest.approx(4 * (1 - figures[2].saving))
    assert chosen is not None
    assert chosen.accuracy >= chosen.full_accuracy - 0.01


def test_what_is_told_of_a_threshold_comes_from_items_that_it_was_not_chosen_on() -> None:
    folds, plan = _folds(GOOD), AskPlan(stages=STAGES, rule="staged")

    figures = choose_held_out(plan, folds)

    chosen = [_choose(plan, [*folds[:number], *folds[number + 1 :]]) for number in range(len(folds))]
    measured = [measure_plan(one, [fold]) for one, fold in zip(chosen, folds, strict=True)]
    assert len({one.min_confidence for one in chosen}) > 1
    assert figures.plan == _choose(plan, folds)
    assert figures.accuracy == pytest.approx(sum(one.accuracy * one.num_items for one in measured) / 300)
    assert figures.mean_asked == pytest.approx(sum(one.mean_asked * one.num_items for one in measured) / 300)


def _choose(plan: AskPlan, folds: list[SetupFold]) -> AskPlan:
    figures = threshold_figures(plan, folds)
    return (choose_threshold(figures) or figures[0]).plan


def test_a_cascade_of_poor_siblings_is_refused() -> None:
    figures = measure_plan(AskPlan(stages=STAGES, rule="cascade"), _folds(POOR_FIRST))

    assert figures.is_refused
    assert figures.accuracy < figures.full_accuracy
    assert figures.comparison.p_value < 0.05


def test_savings_count_what_members_cost() -> None:
    plan = AskPlan(stages=STAGES, rule="cascade")
    costs = {"m0": 0.0, "m1": 0.0, "m2": 1.0, "m3": 1.0}

    figures = measure_plan(plan, _folds(GOOD), cost_by_member=costs)

    assert figures.saving == pytest.approx((4 - figures.mean_asked) / 2)


@pytest.mark.parametrize(
    "stages", [(("m0",), ("m1", "m2")), (("m0", "m1"), ("m1", "m2", "m3")), (("m0", "m1"), (), ("m2", "m3"))]
)
def test_stages_must_name_everyone_once(stages: tuple[tuple[str, ...], ...]) -> None:
    voters = voters_of(GOOD)

    with pytest.raises(ConfigError, match="every member of the panel once"):
        measure_plan(AskPlan(stages=stages, rule="cascade"), [(VoteSetup(strategy="majority", panel=voters), [])])


def test_the_lossless_stop_never_changes_an_answer_and_saves_votes() -> None:
    items = simulate(GOOD, 200, seed=6)
    setup = VoteSetup(strategy="majority", panel=voters_of(GOOD))

    stopped = [stop_item(setup, item, random_arrivals(item, seed=2)) for item in items]

    figures = compare_stops(decide_items(setup, items), stopped, num_members=4)
    assert figures.num_disagreements == 0
    assert figures.saving > 0.1
    assert figures.num_stops == sum(
        one.decision is not None and one.decision.decided_by is DecidedBy.LOSSLESS_QUORUM for one in stopped
    )


def test_arrivals_are_the_same_for_one_seed_and_differ_between_items() -> None:
    items = simulate(GOOD, 20, seed=6)

    orders = [random_arrivals(item, seed=2) for item in items]

    assert orders == [random_arrivals(item, seed=2) for item in items]
    assert len(set(orders)) > 5
    assert latency_arrivals(items[0]) == ("m0", "m1", "m2", "m3")


def test_thresholds_are_read_off_as_asking_stage_by_stage_would_end() -> None:
    folds, plan = _folds(GOOD), AskPlan(stages=(("m0",), ("m1", "m2"), ("m3",)), rule="staged", min_confidence=0.8)

    (figures,) = threshold_figures(plan, folds, thresholds=(0.8,))

    asked = [_ask_one_by_one(plan, setup, item) for setup, items in folds for item in items]
    assert figures.mean_asked == pytest.approx(sum(asked) / len(asked))
    assert {1, 3, 4} == set(asked)


def _ask_one_by_one(plan: AskPlan, setup: VoteSetup, item: ItemVotes) -> int:
    question, votes = question_of(setup, item.item), votes_of(setup, item)
    asked: tuple[str, ...] = ()
    for stage in plan.stages:
        asked = (*asked, *stage)
        if is_enough(plan, question, get_strategy(setup.strategy), [votes[member] for member in asked]):
            break
    return len(asked)


@pytest.mark.parametrize(
    ("loss", "p_value", "is_refused"),
    [(0.0, 0.001, False), (0.005, 0.2, False), (0.005, 0.01, True), (0.02, 0.2, True), (-0.02, 0.01, False)],
)
def test_a_loss_is_too_much_when_it_is_significant_or_more_than_a_point(
    loss: float, p_value: float, *, is_refused: bool
) -> None:
    assert is_too_much(loss, McNemar(num_gained=1, num_lost=5, p_value=p_value)) is is_refused


def test_the_plans_ask_one_or_two_of_the_cheapest_first() -> None:
    plans = build_plans(("m2", "m0", "m1"))

    assert [(plan.rule, plan.stages[0]) for plan in plans] == [
        ("staged", ("m2",)),
        ("staged", ("m2", "m0")),
        ("cascade", ("m2", "m0")),
    ]
    assert build_plans(("m0",)) == ()
