"""The report claims a gain where there is one, says NOT where there is none, and names who does as well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ensemble.calibration.ballot_store import StoredEvaluation
from ensemble.calibration.counting import CountOptions, count_set
from ensemble.calibration.figures import SetFigures
from ensemble.calibration.fit import FitOptions, fit_calibration
from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.calibration.outcomes import VoteSetup, decide_items
from ensemble.calibration.savings import measure_savings
from ensemble.calibration.set_figures import build_figures
from ensemble.calibration.verdict import judge
from ensemble.voting.ballot import Ballot, Voter
from tests.calibration.evaluations import choice_items, simulated

UNCALIBRATED = "Uncalibrated, with the spec's weights and strategy, the ensemble"


def build_options(stored: StoredEvaluation, *, strategy: str = "weighted_vote") -> CountOptions:
    return CountOptions(
        ensemble="default",
        voters=tuple(Voter(member=member.name, family=member.family) for member in stored.manifest.members),
        strategy_by_kind={True: strategy, False: "mbr"},
    )


def figures_of(stored: StoredEvaluation) -> SetFigures:
    (figures,) = build_figures(stored, build_options(stored)).sets
    return figures


@pytest.fixture(scope="module")
def independent() -> SetFigures:
    """Members of like accuracy that err independently: the case in which voting helps."""
    return figures_of(simulated(choice_items(240), {"a": 0.7, "b": 0.7, "c": 0.68, "d": 0.7}))


def test_a_gain_is_claimed_where_equal_members_err_independently(independent: SetFigures) -> None:
    named, verdict = independent.verdicts

    assert named.is_named
    assert named.is_gain
    assert (named.strategy, named.is_fitted, named.num_tried) == ("weighted_vote", False, 1)
    assert named.sentence.startswith(
        "Uncalibrated, with the spec's weights and strategy, the ensemble beats its best member: "
    )
    assert verdict.is_gain
    assert verdict.p_value < 0.05
    assert verdict.sentence.startswith("By the best calibrated strategy, the ensemble beats its best member: ")
    assert f" {verdict.best_member_score:.3f} (p = " in verdict.sentence
    assert ("with its own calibration" in verdict.sentence) == verdict.is_best_corrected


def test_the_p_value_is_corrected_for_the_strategies_tried(independent: SetFigures) -> None:
    _, verdict = independent.verdicts
    (chosen,) = [one for one in independent.strategies if (one.strategy, one.is_fitted) == (verdict.strategy, True)]

    assert verdict.num_tried == sum(one.is_fitted for one in independent.strategies) > 1
    assert verdict.p_value == pytest.approx(min(1.0, chosen.comparison.p_value * verdict.num_tried))


def test_calibrated_strategies_report_both_calibration_errors_and_a_curve(independent: SetFigures) -> None:
    fitted = [one for one in independent.strategies if one.is_fitted]

    assert {"weighted_vote", "log_pool", "stacking"} <= {one.strategy for one in fitted}
    assert all(one.ece_before is not None and one.ece_after is not None for one in fitted)
    assert all(sum(part.num_items for part in one.reliability) == 240 for one in fitted)


def test_the_lossless_stop_saves_ballots_and_changes_no_answer(independent: SetFigures) -> None:
    lossless = [one for one in independent.savings if one.way == "lossless stop" and one.strategy == "weighted_vote"]

    assert lossless
    assert all(one.num_changed == 0 and one.accuracy == one.full_accuracy for one in lossless)
    assert any(one.saving > 0 for one in lossless)


def test_stages_are_measured_against_the_full_panel(independent: SetFigures) -> None:
    ways = {one.way for one in independent.savings}

    assert {"staged", "cascade"} <= ways
    assert all(0 <= one.saving <= 1 for one in independent.savings)


def test_no_gain_is_claimed_where_one_member_is_far_better() -> None:
    figures = figures_of(simulated(choice_items(150), {"good": 0.95, "poor": 0.4, "bad": 0.35}))

    named, verdict = figures.verdicts

    assert not named.is_gain
    assert named.sentence.startswith(
        "Uncalibrated, with the spec's weights and strategy, the ensemble does NOT beat its best member and is signif"
    )
    assert not verdict.is_gain
    assert verdict.best_member == "good"
    assert verdict.sentence.startswith("By the best calibrated strategy, the ensemble does NOT beat its best member")
    assert "good alone does as well." in verdict.sentence


def test_the_specs_calibration_is_judged_as_served() -> None:
    fitted = simulated(choice_items(200), {"a": 0.9, "b": 0.55, "c": 0.55})
    fresh = simulated(choice_items(240), {"a": 0.9, "b": 0.55, "c": 0.55}, seed=7)
    options = build_options(fitted, strategy="stacking")
    calibration = fit_calibration(
        fitted.item_votes(), options.voters, options=FitOptions(ensemble="default", strategies=("stacking",))
    )

    (without,) = build_figures(fresh, options).sets
    (served,) = build_figures(fresh, replace(options, served=calibration.to_voting())).sets

    assert not any(verdict.is_named for verdict in without.verdicts)
    assert any("stacking, is not judged as the spec has it" in warning for warning in without.warnings)
    named = served.verdicts[0]
    assert (named.is_named, named.is_served, named.num_tried) == (True, True, 1)
    assert named.sentence.startswith("As served, with the spec's strategy and calibration, the ensemble ")
    setup = VoteSetup(strategy="stacking", panel=options.voters, calibration=calibration.to_voting())
    outcomes = decide_items(setup, fresh.item_votes())
    assert named.score == pytest.approx(sum(one.is_correct for one in outcomes) / 240)
    assert not any("is not judged" in warning for warning in served.warnings)


def test_copies_of_one_member_gain_nothing_and_err_together() -> None:
    stored = simulated(choice_items(120), {"a": 0.7, "b": 0.7})
    (one,) = stored.sets
    copied = tuple(
        ItemVotes(
            item=item.item,
            votes=(item.votes[0], replace(item.votes[0], member="b", family="family-b")),
        )
        for item in one.item_votes
    )

    figures = figures_of(replace(stored, sets=(replace(one, item_votes=copied),)))

    assert not figures.verdicts[0].is_gain
    assert figures.error_correlation[0][1] == pytest.approx(1.0)
    assert figures.disagreement[0][1] == 0.0


def test_a_member_that_failed_on_half_of_the_items_is_told_with_its_count_and_not_calibrated() -> None:
    figures = figures_of(simulated(choice_items(80), {"a": 0.7, "b": 0.7, "dead": 0.7}, silent={"dead": 0.9}))

    dead = figures.members[2]
    assert dead.has_failed
    assert any(
        f"dead gave no ballot on {dead.num_abstained} of 80 items (error {dead.num_abstained}): it FAILED" in warning
        for warning in figures.warnings
    )
    assert dead.scores[0].value < 0.2
    assert any(one.is_fitted for one in figures.strategies)


def test_an_occasional_silence_is_told_too() -> None:
    figures = figures_of(simulated(choice_items(80), {"a": 0.7, "b": 0.7}, silent={"b": 0.1}))

    assert not figures.members[1].has_failed
    assert [warning.startswith("b gave no ballot on") for warning in figures.warnings] == [True]


def test_too_few_items_are_counted_but_nothing_is_calibrated() -> None:
    figures = figures_of(simulated(choice_items(8), {"a": 0.7, "b": 0.7}))

    assert not any(one.is_fitted for one in figures.strategies)
    assert figures.verdicts[0].is_fitted is False
    assert any(warning.startswith("Nothing was calibrated") and "8" in warning for warning in figures.warnings)


def test_texts_are_judged_by_exact_match_and_by_chrf() -> None:
    items = [LabelledItem(item_id=f"t{n}", prompt="Which city?", reference="Paris") for n in range(6)]
    answers = {"a": "The answer is Paris.", "b": "paris", "c": "London"}
    stored = simulated(choice_items(1), dict.fromkeys(answers, 0.5))
    item_votes = tuple(
        ItemVotes(
            item=item,
            votes=tuple(
                Ballot(member=member, family=f"family-{member}", text=text, logprob=-1.0)
                for member, text in answers.items()
            ),
        )
        for item in items
    )

    figures = figures_of(replace(stored, sets=(replace(stored.sets[0], item_votes=item_votes),)))

    scores = {one.member: {score.measure: score.value for score in one.scores} for one in figures.members}
    assert {member: score["exact match"] for member, score in scores.items()} == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert scores["a"]["chrF"] > scores["c"]["chrF"]
    assert [verdict.measure for verdict in figures.verdicts] == ["exact match", "chrF", "chrF"]
    assert any("Not measured" in warning and "judge" in warning for warning in figures.warnings)
    by_title = {one.title: one.score.value for one in figures.strategies}
    assert by_title["majority, uncalibrated"] == 1.0


def test_sets_with_choices_are_reported_together_too() -> None:
    stored = simulated(choice_items(60), {"a": 0.9, "b": 0.6})
    (one,) = stored.sets
    other = replace(one, name="other")
    members = stored.manifest.members
    options = CountOptions(
        ensemble="default",
        voters=tuple(Voter(member=member.name, family=member.family) for member in members),
        strategy_by_kind={True: "weighted_vote", False: "mbr"},
    )
    facts = tuple(
        stored.manifest.sets[0].model_copy(update={"name": name, "num_left_out": count})
        for name, count in (("set", 2), ("other", 3))
    )
    twice = replace(stored, sets=(one, other), manifest=stored.manifest.model_copy(update={"sets": facts}))

    *_, together = build_figures(twice, options).sets

    assert (together.name, together.num_items) == ("all sets with choices", 120)
    assert together.num_left_out == 5
    assert any(warning.startswith("5 lines of the data could not be used") for warning in together.warnings)


def test_no_member_is_said_to_do_as_well_where_the_named_strategy_gains() -> None:
    stored = simulated(choice_items(150), {"good": 0.95, "poor": 0.4, "bad": 0.35})
    voters = tuple(Voter(member=member.name, family=member.family) for member in stored.manifest.members)
    counted = count_set(
        stored.item_votes(),
        CountOptions(ensemble="default", voters=voters, strategy_by_kind={True: "weighted_vote", False: "mbr"}),
    )
    costs = {voter.member: 1.0 for voter in voters}

    verdict = judge(counted, "accuracy", cost_by_member=costs, is_gain_known=True)

    assert verdict is not None
    assert not verdict.is_gain
    assert "good alone does" not in verdict.sentence


def test_an_uncalibrated_stage_ends_when_nothing_can_change_and_a_calibrated_one_when_it_is_sure() -> None:
    options = {True: "majority", False: "mbr"}
    stored = simulated(choice_items(40), {"a": 0.7, "b": 0.7, "c": 0.68})
    voters = tuple(Voter(member=member.name, family=member.family) for member in stored.manifest.members)
    counted = count_set(stored.item_votes(), CountOptions(ensemble="default", voters=voters, strategy_by_kind=options))

    details = {
        way.is_fitted: [
            one.detail
            for one in measure_savings(way, cost_by_member={"a": 1.0, "b": 2.0, "c": 3.0})
            if one.way == "staged"
        ]
        for way in counted.ways
        if way.strategy == "majority"
    }

    assert details[False] == ["a first, the rest unless decided", "a + b first, the rest unless decided"]
    assert details[True][0] == "a first, the rest unless confidence is 0.95"


def test_calibrated_strategies_tell_how_many_answers_are_at_least_so_sure(independent: SetFigures) -> None:
    fitted = next(one for one in independent.strategies if one.is_fitted and one.strategy == "log_pool")
    raw = [one for one in independent.strategies if not one.is_fitted]

    shares = [one.share for one in fitted.sure]
    accuracies = [one.accuracy for one in fitted.sure if one.accuracy is not None]
    assert [one.min_confidence for one in fitted.sure] == [0.5, 0.7, 0.9]
    assert shares == sorted(shares, reverse=True)
    assert accuracies[0] < accuracies[-1]
    assert all(one.sure == () for one in raw)
