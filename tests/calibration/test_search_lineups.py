"""Lineups are measured as the server would serve them: by the real tallies, in the order of the stored latencies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from ensemble.calibration.call_costs import GFLOP, MEMBER_SECONDS, build_call_costs
from ensemble.calibration.fit import FitOptions, cross_fit
from ensemble.calibration.items import ItemVotes, LabelledItem
from ensemble.calibration.lineup import Limits, Lineup, MeasuredLineup
from ensemble.calibration.outcomes import (
    VoteSetup,
    decide_item,
    grade,
    latency_arrivals,
    question_of,
    stop_item,
    votes_of,
)
from ensemble.calibration.panel_lineups import PanelMeter
from ensemble.calibration.selection import select_lineup
from ensemble.calibration.selection_verdict import write_verdict
from ensemble.errors import ConfigError
from ensemble.voting.asking import decide_stage, is_enough
from ensemble.voting.ballot import Ballot, Voter
from ensemble.voting.registry import get_strategy
from ensemble.voting.strategy import Quorum
from tests.calibration.evaluations import choice_items, simulated

STRATEGIES = ("weighted_vote", "soft_vote", "log_pool")
CERTIFIED = ("soft_vote", "log_pool")
"""Of counted weights no partial vote is certified here: what the lossless stop leaves of them is too seldom right."""
ACCURACIES = {"a": 0.6, "b": 0.65, "c": 0.7}
OPTIONS = FitOptions(ensemble="default", strategies=STRATEGIES, risk_delta=0.2)
QUORUM = Quorum()


def evaluated(num_items: int = 90, *, seed: int = 1) -> tuple[ItemVotes, ...]:
    return simulated(choice_items(num_items), ACCURACIES, seed=seed, silent={"b": 0.1}).item_votes()


def voters_of(members: Sequence[str]) -> tuple[Voter, ...]:
    return tuple(Voter(member=member, family=f"family-{member}") for member in members)


def meter_of(items: Sequence[ItemVotes], members: Sequence[str] = ("a", "b", "c")) -> PanelMeter:
    return PanelMeter(
        items=items, voters=voters_of(members), costs=build_call_costs(items, {}), options=OPTIONS, quorum=QUORUM
    )


@pytest.fixture(scope="module")
def items() -> tuple[ItemVotes, ...]:
    return evaluated()


@pytest.fixture(scope="module")
def whole_panel(items: tuple[ItemVotes, ...]) -> tuple[MeasuredLineup, ...]:
    return meter_of(items).measure(("a", "b", "c"))


def setups(items: Sequence[ItemVotes], strategy: str) -> list[tuple[VoteSetup, ItemVotes]]:
    """Give each item with the calibration that was fitted without it, in the items' order."""
    by_id = {}
    for fold in cross_fit(items, voters_of(tuple(ACCURACIES)), options=OPTIONS):
        setup = VoteSetup(
            strategy=strategy, panel=voters_of(tuple(ACCURACIES)), calibration=fold.calibration, quorum=QUORUM
        )
        by_id.update({item.item.item_id: (setup, item) for item in fold.held_out})
    return [by_id[item.item.item_id] for item in items]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_asking_all_gives_the_answers_and_waits_of_the_real_tallies(
    items: tuple[ItemVotes, ...], whole_panel: tuple[MeasuredLineup, ...], strategy: str
) -> None:
    found = next(one for one in whole_panel if one.lineup == Lineup(members=("a", "b", "c"), strategy=strategy))

    expected = [decide_item(setup, item).score for setup, item in setups(items, strategy)]
    waited_s = []
    for setup, item in setups(items, strategy):
        used = stop_item(setup, item, latency_arrivals(item)).members_used
        waited_s.append(max(vote.latency_s for vote in item.votes if vote.member in used))

    assert found.scores.tolist() == expected
    assert found.latencies_s == pytest.approx(np.array(waited_s))


@pytest.mark.parametrize("strategy", CERTIFIED)
def test_the_risk_stop_gives_the_answers_of_certified_votes(
    items: tuple[ItemVotes, ...], whole_panel: tuple[MeasuredLineup, ...], strategy: str
) -> None:
    found = [one for one in whole_panel if one.lineup.stop == "risk" and one.lineup.strategy == strategy]

    expected = [
        stop_item(setup, item, latency_arrivals(item), with_risk=True).score for setup, item in setups(items, strategy)
    ]

    assert len(found) == 1
    assert found[0].scores.tolist() == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stages_give_the_answers_that_the_servers_own_rule_gives(
    items: tuple[ItemVotes, ...], whole_panel: tuple[MeasuredLineup, ...], strategy: str
) -> None:
    staged = [one for one in whole_panel if one.lineup.asking and one.lineup.strategy == strategy]
    cases = setups(items, strategy)

    assert {one.lineup.asking.rule for one in staged if one.lineup.asking} == {"staged", "cascade"}
    for one in staged:
        assert one.lineup.asking is not None
        first = one.lineup.asking.stages[0]
        for (setup, item), score in zip(cases, one.scores, strict=True):
            question, votes = question_of(setup, item.item), votes_of(setup, item)
            asked = [votes[member] for member in first]
            is_done = is_enough(one.lineup.asking, question, get_strategy(strategy), asked)
            counted = asked if is_done else list(votes.values())
            decision = decide_stage(question, get_strategy(strategy), counted)
            assert score == grade(item.item, decision)[1]


def test_asking_fewer_costs_less_than_asking_all(whole_panel: tuple[MeasuredLineup, ...]) -> None:
    by_lineup = {one.lineup: one for one in whole_panel}
    everyone = by_lineup[Lineup(members=("a", "b", "c"), strategy="log_pool")]

    staged = [one for one in whole_panel if one.lineup.asking and one.lineup.strategy == "log_pool"]

    assert min(one.cost for one in staged) < everyone.cost
    assert max(one.latency_s for one in staged) > everyone.latency_s


def test_a_cancelled_call_costs_the_share_of_its_time_that_had_passed() -> None:
    costs = build_call_costs(evaluated(3), {"a": 10**9, "b": 10**9, "c": 2 * 10**9})
    calls = costs.by_item[0]

    whole, cut = calls.spent(["c"]), calls.spent(["c"], until_s=calls.latency_by_member["c"] / 4)

    assert costs.unit == GFLOP
    assert whole == pytest.approx(2 * 2 * 7)
    assert cut == pytest.approx(whole / 4)


def test_cost_is_counted_in_seconds_when_a_member_has_no_known_parameters() -> None:
    costs = build_call_costs(evaluated(3), {"a": 10**9})

    assert costs.unit == MEMBER_SECONDS
    assert costs.mean_by_member["a"] == pytest.approx(0.1)


def test_a_single_member_is_one_candidate(items: tuple[ItemVotes, ...]) -> None:
    alone = meter_of(items).measure(("c",))

    assert [one.lineup for one in alone] == [Lineup(members=("c",), strategy="majority")]
    assert alone[0].lineup.is_single


def test_the_search_says_when_a_single_member_is_the_choice() -> None:
    items = simulated(choice_items(60), {"a": 0.95, "b": 0.4}, seed=2).item_votes()

    selection = select_lineup(meter_of(items, ("a", "b")), Limits(max_cost=0.12), exhaustive_members=6)

    assert selection.chosen.lineup.members == ("a",)
    assert selection.singles_on_front == ("a",)
    verdict = " ".join(write_verdict(selection))
    assert "A SINGLE MEMBER IS THE CHOICE" in verdict
    assert "is a single member: a" in verdict
    assert "exhaustive: all 3 panels" in verdict


def test_a_limit_that_nothing_keeps_is_refused_with_the_nearest(items: tuple[ItemVotes, ...]) -> None:
    with pytest.raises(ConfigError, match=r"no lineup keeps it; the nearest, a \(alone\), costs 0\.1"):
        select_lineup(meter_of(items, ("a", "b")), Limits(max_cost=0.01), exhaustive_members=6)


def test_members_that_only_guess_are_measured_too() -> None:
    items = simulated(choice_items(60), {"a": 0.2, "b": 0.1}, seed=2).item_votes()

    selection = select_lineup(meter_of(items, ("a", "b")), Limits(), exhaustive_members=6)

    assert {one.lineup.members for one in selection.lineups} >= {("a",), ("b",)}


def test_the_beam_over_measured_panels_finds_what_the_exhaustive_search_finds(items: tuple[ItemVotes, ...]) -> None:
    exhaustive, by_beam = (select_lineup(meter_of(items), Limits(), exhaustive_members=most) for most in (6, 1))

    assert by_beam.chosen.lineup == exhaustive.chosen.lineup
    assert by_beam.corrected.naive == exhaustive.corrected.naive


def test_whole_texts_are_chosen_without_a_calibration_and_never_asked_in_stages() -> None:
    texts = {"a": "the cat sat on the mat", "b": "the cat sat on a mat", "c": "dogs bark"}
    items = [
        ItemVotes(
            item=LabelledItem(item_id=f"t{n}", prompt="?", reference="the cat sat on the mat"),
            votes=tuple(Ballot(member=member, text=text, latency_s=0.1) for member, text in texts.items()),
        )
        for n in range(3)
    ]
    meter = dataclasses.replace(meter_of(items), options=FitOptions(ensemble="default", strategies=("mbr",)))

    selection = select_lineup(meter, Limits(), exhaustive_members=6)

    assert {one.lineup.strategy for one in selection.lineups} == {"mbr"}
    assert len(selection.lineups) == 7
    assert selection.chosen.lineup.members == ("a",)
    assert selection.chosen.accuracy == 1.0
