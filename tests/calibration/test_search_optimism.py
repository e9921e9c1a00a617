"""The accuracy reported for a choice is that on items the choice was not made on."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble.calibration.choice_optimism import correct_optimism
from ensemble.calibration.lineup import Limits, MeasuredLineup
from tests.calibration.lineups import measured

NUM_ITEMS = 200
TRUE_ACCURACY = 0.7


def equally_good(seed: int, *, num_lineups: int = 60, best: float = TRUE_ACCURACY) -> list[MeasuredLineup]:
    """Make lineups that are right on independent items with one probability, the first with another one."""
    generator = np.random.default_rng(seed)
    accuracies = [best] + [TRUE_ACCURACY] * (num_lineups - 1)
    return [
        measured(f"p{n}", (generator.random(NUM_ITEMS) < share).tolist(), size=2) for n, share in enumerate(accuracies)
    ]


def test_where_all_are_equally_good_the_naive_figure_flatters_and_the_corrected_one_does_not() -> None:
    figures = [correct_optimism(equally_good(seed), Limits(), num_samples=200, seed=seed) for seed in range(30)]

    naive, corrected = np.mean([[one.naive, one.accuracy] for one in figures], axis=0)
    assert naive > TRUE_ACCURACY + 0.05
    assert corrected == pytest.approx(TRUE_ACCURACY, abs=0.01)


def test_where_one_is_clearly_the_best_there_is_little_to_correct() -> None:
    figures = [
        correct_optimism(equally_good(seed, best=0.95), Limits(), num_samples=200, seed=seed) for seed in range(10)
    ]

    assert np.mean([one.accuracy for one in figures]) == pytest.approx(0.95, abs=0.01)
    assert abs(np.mean([one.optimism for one in figures])) < 0.01


def test_a_gain_over_the_best_single_member_is_not_found_where_there_is_none() -> None:
    generator = np.random.default_rng(1)
    singles = [measured(f"s{n}", (generator.random(NUM_ITEMS) < TRUE_ACCURACY).tolist()) for n in range(3)]

    figures = correct_optimism([*singles, *equally_good(2)], Limits())

    assert figures.gain is not None
    assert figures.gain_interval is not None
    assert figures.gain_interval.low < 0.0
    assert abs(figures.gain) < 0.05


def test_a_gain_over_the_best_single_member_is_found_where_there_is_one() -> None:
    generator = np.random.default_rng(1)
    singles = [measured(f"s{n}", (generator.random(NUM_ITEMS) < TRUE_ACCURACY).tolist()) for n in range(3)]

    figures = correct_optimism([*singles, *equally_good(2, best=0.95)], Limits())

    assert figures.gain_interval is not None
    assert figures.gain_interval.low > 0.05


def test_what_exceeds_a_limit_is_not_chosen_on_any_sample() -> None:
    generator = np.random.default_rng(3)
    cheap = measured("cheap", (generator.random(NUM_ITEMS) < 0.6).tolist(), cost=1.0)
    dear = measured("dear", [1.0] * NUM_ITEMS, cost=2.0, size=2)

    figures = correct_optimism([cheap, dear], Limits(max_cost=1.5))

    assert figures.naive == cheap.accuracy
    assert figures.accuracy == pytest.approx(cheap.accuracy, abs=0.01)
    assert figures.gain == 0.0


def test_the_same_seed_gives_the_same_figures() -> None:
    lineups = equally_good(5)

    first, second = (correct_optimism(lineups, Limits(), num_samples=50, seed=4) for _ in range(2))

    assert first == second
