"""The search finds where a limit is passed in few trials, and the same place whichever trial ends first."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from ensemble.compression.recipe import Recipe, parse_recipe
from ensemble.variants.adjust_search import (
    Aim,
    Limit,
    Measured,
    choose,
    count_most,
    find_nearest,
    next_points,
    pareto_front,
)
from ensemble.variants.adjust_template import Chain, Point

RECIPE: Recipe = parse_recipe({"steps": [{"type": "quantize_int8"}]}, where="test")


def chain_of(num_points: int, *, name: str = "p") -> Chain:
    return Chain(points=tuple(Point(name=f"{name}{number:03}", recipe=RECIPE) for number in range(num_points)))


def growing(name: str) -> Measured:
    """A hundredth of loss and a twentieth of speed a step."""
    number = int(name.lstrip("abp"))
    return Measured(name=name, loss=0.01 * (number + 1), speedup=1.0 + 0.05 * number, num_bytes=1000 - number)


def search(
    chains: list[Chain], limit: Limit, measure: Callable[[str], Measured], *, at_once: int = 1, seed: int = 0
) -> Mapping[str, Measured]:
    """Run trials until none is wanted, and let any of those under way end first."""
    draw, measured = random.Random(seed), dict[str, Measured]()
    while wanted := [point.name for chain in chains for point in next_points(chain, measured, limit, at_once=at_once)]:
        ended = draw.choice(wanted)
        measured[ended] = measure(ended)
    return measured


@pytest.mark.parametrize("num_points", [1, 2, 7, 30, 100])
@pytest.mark.parametrize("last", [-1, 0, 3, 17, 99])
def test_the_strongest_point_within_a_loss_is_found_by_halving(num_points: int, last: int) -> None:
    limit = Limit(max_loss=0.01 * (last + 1) + 0.001)

    measured = search([chain_of(num_points)], limit, growing)

    chosen = choose(measured.values(), limit, "speed")
    assert (int(chosen.name[1:]) if chosen else -1) == min(last, num_points - 1)
    assert len(measured) <= num_points.bit_length() == count_most([chain_of(num_points)])


@pytest.mark.parametrize("first", [0, 5, 29, 40])
def test_the_mildest_point_that_is_fast_enough_is_found_by_halving(first: int) -> None:
    limit = Limit(min_speedup=1.0 + 0.05 * first - 0.001)

    measured = search([chain_of(30)], limit, growing)

    chosen = choose(measured.values(), limit, "speed")
    assert (int(chosen.name[1:]) if chosen else 40) == first
    assert len(measured) <= 5


@pytest.mark.parametrize("limit", [Limit(max_loss=0.115), Limit(min_speedup=1.41)])
@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_whichever_trial_ends_first_the_same_trials_are_run(limit: Limit, at_once: int) -> None:
    chains = [chain_of(40, name="a"), chain_of(25, name="b")]

    runs = [search(chains, limit, growing, at_once=at_once, seed=seed) for seed in range(20)]

    assert all(run == runs[0] for run in runs)
    assert choose(runs[0].values(), limit, "speed") == choose(search(chains, limit, growing).values(), limit, "speed")
    assert len(runs[0]) <= count_most(chains, at_once=at_once)


def test_noise_on_the_way_does_not_make_the_outcome_depend_on_the_order() -> None:
    noise = random.Random(1)
    noisy = {f"p{n:03}": Measured(name=f"p{n:03}", loss=noise.random(), speedup=noise.random()) for n in range(64)}
    limit = Limit(max_loss=0.5)

    outcomes = {tuple(sorted(search([chain_of(64)], limit, noisy.__getitem__, at_once=3, seed=s))) for s in range(20)}

    assert len(outcomes) == 1


def test_what_came_to_nothing_was_too_strong() -> None:
    def measure(name: str) -> Measured:
        return growing(name) if int(name[1:]) < 12 else Measured(name=name)

    fast = search([chain_of(40)], Limit(min_speedup=1.5), measure)
    good = search([chain_of(40)], Limit(max_loss=9.0), measure)

    chosen = choose(fast.values(), Limit(min_speedup=1.5), "speed")
    assert chosen is not None
    assert chosen.name == "p010"
    strongest = choose(good.values(), Limit(max_loss=9.0), "speed")
    assert strongest is not None
    assert strongest.name == "p011"


@pytest.mark.parametrize(("aim", "expected"), [("speed", "quick"), ("size", "small")])
def test_within_a_loss_the_fastest_or_the_smallest_is_chosen(aim: Aim, expected: str) -> None:
    measured = [
        Measured(name="quick", loss=0.09, speedup=2.0, num_bytes=90),
        Measured(name="small", loss=0.08, speedup=1.5, num_bytes=40),
        Measured(name="lossy", loss=0.11, speedup=3.0, num_bytes=10),
        Measured(name="failed"),
    ]

    chosen = choose(measured, Limit(max_loss=0.1), aim)

    assert chosen is not None
    assert chosen.name == expected
    assert choose(measured, Limit(max_loss=0.01), aim) is None
    assert find_nearest(measured, Limit(max_loss=0.01)) == measured[1]
    assert find_nearest(measured, Limit(min_speedup=9.0)) == measured[2]
    assert find_nearest(measured[3:], Limit(min_speedup=9.0)) is None


def test_nothing_on_the_front_is_bettered_in_both() -> None:
    measured = [growing(f"p{number:03}") for number in range(5)]
    worse = [Measured(name="w", loss=0.03, speedup=1.05, num_bytes=999), Measured(name="failed")]

    front = pareto_front([*worse, *measured], "speed")

    assert [one.name for one in front] == ["p004", "p003", "p002", "p001", "p000"]
    assert pareto_front(worse, "size") == (worse[0],)
