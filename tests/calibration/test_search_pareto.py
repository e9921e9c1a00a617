"""The front has what nothing as cheap betters, and the choice keeps the limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ensemble.calibration.lineup import Limits, MeasuredLineup
from ensemble.calibration.pareto import choose_lineup, pareto_front, rank_lineups
from tests.calibration.lineups import measured

LINEUPS = st.lists(
    st.tuples(st.integers(0, 10), st.integers(1, 6), st.integers(1, 3)).map(
        lambda facts: measured("x", [1.0] * facts[0] + [0.0] * (10 - facts[0]), cost=float(facts[1]), size=facts[2])
    ),
    min_size=1,
    max_size=12,
)


def betters(one: MeasuredLineup, other: MeasuredLineup) -> bool:
    is_no_worse = one.cost <= other.cost and one.accuracy >= other.accuracy
    return is_no_worse and (one.cost, one.accuracy) != (other.cost, other.accuracy)


@given(LINEUPS)
def test_nothing_betters_a_lineup_of_the_front_and_the_front_betters_or_equals_all_else(
    lineups: list[MeasuredLineup],
) -> None:
    front = pareto_front(lineups, "cost")

    assert not any(betters(one, chosen) for one in lineups for chosen in front)
    for one in lineups:
        assert any(chosen.cost <= one.cost and chosen.accuracy >= one.accuracy for chosen in front)


@given(LINEUPS, st.integers(0, 6))
def test_the_choice_is_the_most_accurate_within_the_limit(lineups: list[MeasuredLineup], max_cost: int) -> None:
    chosen = choose_lineup(rank_lineups(lineups, "cost"), Limits(max_cost=float(max_cost)))

    allowed = [one for one in lineups if one.cost <= max_cost]
    assert (chosen is None) == (not allowed)
    if chosen:
        assert chosen.cost <= max_cost
        assert chosen.accuracy == max(one.accuracy for one in allowed)


def test_of_equally_accurate_lineups_the_cheaper_is_chosen_and_then_the_smaller() -> None:
    dear = measured("dear", [1.0, 0.0], cost=2.0)
    large = measured("large", [1.0, 0.0], cost=1.0, size=3)
    small = measured("small", [0.0, 1.0], cost=1.0, size=2)

    chosen = choose_lineup(rank_lineups([dear, large, small], "cost"), Limits())

    assert chosen is small


def test_a_latency_limit_counts_latency() -> None:
    slow = measured("slow", [1.0, 1.0], latency_s=3.0)
    quick = measured("quick", [1.0, 0.0], latency_s=1.0)

    chosen = choose_lineup(rank_lineups([slow, quick], "latency"), Limits(max_latency_s=2.0))

    assert chosen is quick
