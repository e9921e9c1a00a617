from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ensemble.calibration.calibration_file import Calibration
from ensemble.calibration.fit import FitOptions, cross_fit, fit_calibration, fitting_strategies
from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.calibration.outcomes import VoteSetup, decide_items
from ensemble.calibration.statistics import calibration_error
from ensemble.errors import ConfigError
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot
from tests.calibration.simulated import Population, simulate, voters_of

OPTIONS = FitOptions(ensemble="trivia", data_digest="d1", risk_delta=None)
FAST = replace(OPTIONS, strategies=("weighted_vote", "log_pool"))
TWINS = Population(
    skills=(1.5, 1.5, 1.4, 1.3, 1.3), families=("a", "a", "a", "b", "b"), num_choices=2, shared_noise=1.0
)
VOTERS = voters_of(TWINS)


@pytest.fixture(scope="module")
def items() -> list[ItemVotes]:
    return simulate(TWINS, 1200, seed=8)


@pytest.fixture(scope="module")
def calibration(items: list[ItemVotes]) -> Calibration:
    return fit_calibration(items[:600], VOTERS, options=OPTIONS)


def _silence(item: ItemVotes, member: str) -> ItemVotes:
    votes = tuple(
        Abstention(member=member, reason=AbstentionReason.ERROR) if vote.member == member else vote
        for vote in item.votes
    )
    return replace(item, votes=votes)


@pytest.mark.parametrize("strategy", ["weighted_vote", "log_pool", "stacking"])
def test_the_independence_formula_is_overconfident_and_the_calibration_is_not(
    calibration: Calibration, items: list[ItemVotes], strategy: str
) -> None:
    setup = VoteSetup(strategy=strategy, panel=VOTERS, calibration=calibration.to_voting())

    fresh = decide_items(setup, items[600:])

    error = calibration_error([one.confidence or 0.0 for one in fresh], [one.is_correct for one in fresh])
    assert calibration.strategies[strategy].held_out.ece_before > 0.10
    assert calibration.strategies[strategy].held_out.ece_after <= 0.05
    assert error <= 0.05


def test_reported_figures_come_from_calibrations_that_did_not_see_the_items(
    calibration: Calibration, items: list[ItemVotes]
) -> None:
    report = calibration.strategies["log_pool"].held_out

    folds = cross_fit(items[:600], VOTERS, options=FAST)

    outcomes = [
        outcome
        for fold in folds
        for outcome in decide_items(
            VoteSetup(strategy="log_pool", panel=VOTERS, calibration=fold.calibration), fold.held_out
        )
    ]
    assert report.accuracy == np.mean([outcome.is_correct for outcome in outcomes])
    held_out = [item.item.item_id for fold in folds for item in fold.held_out]
    assert sorted(held_out) == sorted(item.item.item_id for item in items[:600])


def test_labels_of_held_out_items_do_not_reach_their_calibration(items: list[ItemVotes]) -> None:
    first, *others = cross_fit(items[:100], VOTERS, options=FAST)
    held_out = {item.item.item_id for item in first.held_out}
    flipped = [
        replace(one, item=replace(one.item, answer=1 - (one.item.answer or 0))) if one.item.item_id in held_out else one
        for one in items[:100]
    ]

    refitted, *changed = cross_fit(flipped, VOTERS, options=FAST)

    assert refitted.calibration == first.calibration
    assert [fold.calibration for fold in changed] != [fold.calibration for fold in others]


def test_the_order_of_items_does_not_matter(items: list[ItemVotes]) -> None:
    forward = fit_calibration(items[:60], VOTERS, options=FAST)

    backward = fit_calibration(items[59::-1], VOTERS, options=FAST)

    assert backward == forward


def test_noise_earns_no_claim() -> None:
    guessers = Population(skills=(0.0, 0.0, 0.0), families=("a", "b", "c"))

    calibration = fit_calibration(simulate(guessers, 200, seed=1), voters_of(guessers), options=FAST)

    assert not calibration.gate.is_gain_claimed
    assert "does not beat its best member" in calibration.gate.sentence


def test_independent_equals_earn_one() -> None:
    peers = Population(skills=(1.4,) * 5, families=tuple("abcde"), shared_noise=0.0, family_noise=0.6)

    calibration = fit_calibration(simulate(peers, 300, seed=1), voters_of(peers), options=FAST)

    assert calibration.gate.is_gain_claimed
    assert calibration.gate.p_value < 0.01
    assert "beats its best member" in calibration.gate.sentence


def test_label_sets_hold_the_answer_nine_times_in_ten(calibration: Calibration) -> None:
    coverage = calibration.strategies["log_pool"].held_out.label_set_coverage

    assert coverage is not None
    assert 0.87 < coverage < 0.97


def test_a_member_below_chance_is_reported_and_keeps_a_weight() -> None:
    fool = Population(skills=(1.5, 1.5, -1.0), families=("a", "b", "c"))

    calibration = fit_calibration(simulate(fool, 150, seed=2), voters_of(fool), options=FAST)

    assert [member.is_below_chance for member in calibration.members.values()] == [False, False, True]
    weights = calibration.strategies["weighted_vote"].weight_by_member
    assert 0.0 < weights["m2"] < 0.1 < weights["m0"]


def test_fewer_than_twenty_items_are_refused_with_their_count(items: list[ItemVotes]) -> None:
    with pytest.raises(ConfigError, match="19 labelled items are too few; label at least 20"):
        fit_calibration(items[:19], VOTERS, options=FAST)


def test_twenty_items_are_enough(items: list[ItemVotes]) -> None:
    calibration = fit_calibration(items[:20], VOTERS, options=FAST)

    assert calibration.num_items == 20
    assert all(0.05 <= member.temperature <= 20.1 for member in calibration.members.values())


def test_a_member_that_abstained_on_half_the_items_is_refused_with_its_count(items: list[ItemVotes]) -> None:
    partly = [_silence(item, "m3") if n < 30 else item for n, item in enumerate(items[:60])]

    with pytest.raises(ConfigError, match="m3 on 30 of 60"):
        fit_calibration(partly, VOTERS, options=FAST)


def test_it_is_accepted_once_it_is_excluded(items: list[ItemVotes]) -> None:
    partly = [_silence(item, "m3") if n < 30 else item for n, item in enumerate(items[:60])]
    others = tuple(voter for voter in VOTERS if voter.member != "m3")

    calibration = fit_calibration(partly, others, options=FAST)

    assert "m3" not in calibration.members


def test_fewer_abstentions_are_reported(items: list[ItemVotes]) -> None:
    partly = [_silence(item, "m3") if n < 29 else item for n, item in enumerate(items[:60])]

    calibration = fit_calibration(partly, VOTERS, options=FAST)

    assert calibration.members["m3"].num_abstained == 29


def test_ids_that_are_there_twice_are_refused_with_their_count(items: list[ItemVotes]) -> None:
    with pytest.raises(ConfigError, match="2 ids are there twice"):
        fit_calibration([*items[:30], *items[:2]], VOTERS, options=FAST)


def test_items_without_an_answer_are_refused_with_their_count(items: list[ItemVotes]) -> None:
    blank = [replace(item, item=replace(item.item, answer=None)) for item in items[:3]]

    with pytest.raises(ConfigError, match="3 have no answer"):
        fit_calibration([*blank, *items[3:40]], VOTERS, options=FAST)


def test_hard_ballots_are_fitted_for_the_rules_that_can_count_them(items: list[ItemVotes]) -> None:
    hard = [
        replace(
            item,
            votes=tuple(
                Ballot(member=vote.member, choice=item.item.choices[int(np.argmax(vote.probabilities))])
                for vote in item.votes
                if isinstance(vote, Ballot)
            ),
        )
        for item in items[:80]
    ]

    calibration = fit_calibration(hard, VOTERS, options=OPTIONS)

    assert tuple(calibration.strategies) == fitting_strategies(hard, VOTERS) == ("weighted_vote", "majority")
    with pytest.raises(ConfigError, match="log_pool cannot be calibrated"):
        fit_calibration(hard, VOTERS, options=replace(OPTIONS, strategies=("log_pool",)))


def test_short_answers_are_calibrated_against_references() -> None:
    generator = np.random.default_rng(3)
    short = []
    for number in range(200):
        texts = [
            str(number) if generator.uniform() < skill else str(1000 + generator.integers(3))
            for skill in (0.8, 0.6, 0.6)
        ]
        votes = tuple(Ballot(member=f"m{place}", text=f"Answer: {text}") for place, text in enumerate(texts))
        short.append(ItemVotes(item=LabelledItem(item_id=str(number), prompt="?", reference=str(number)), votes=votes))

    calibration = fit_calibration(short, VOTERS[:3], options=OPTIONS)

    held_out = calibration.strategies["weighted_vote"].held_out
    assert held_out.accuracy > 0.7
    assert held_out.ece_after <= 0.08
    assert calibration.members["m0"].accuracy == pytest.approx(0.8, abs=0.08)
