from __future__ import annotations

import math

import numpy as np
import pytest

from ensemble.calibration.weights import (
    collision_rate,
    family_discounts,
    family_error_correlations,
    log_odds_weights,
    shrunk_accuracies,
)


@pytest.mark.parametrize(
    ("chance", "expected"), [(0.5, (2.197225, 0.405465, 0.405465)), (0.25, (3.295837, 1.504077, 1.504077))]
)
def test_without_collisions_weights_are_the_optimal_log_odds(chance: float, expected: tuple[float, ...]) -> None:
    collision = chance / (1 - chance)

    weights = log_odds_weights([0.9, 0.6, 0.6], collision=collision, chance=chance)

    assert weights.tolist() == pytest.approx(list(expected), abs=1e-6)


def test_accuracies_shrink_to_the_pooled_one_by_ten_items() -> None:
    accuracy = shrunk_accuracies([90, 30], [100, 50], chance=0.25)

    assert accuracy.tolist() == pytest.approx([(90 + 8) / 110, (30 + 8) / 60])


def test_a_perfect_member_is_never_certain() -> None:
    accuracy = shrunk_accuracies([1000], [1000], chance=0.5)

    assert accuracy[0] == pytest.approx(1 - 1 / 2000)


def test_a_member_below_chance_keeps_a_small_positive_weight() -> None:
    accuracy = shrunk_accuracies([800, 100], [1000, 1000], chance=0.25)

    weights = log_odds_weights(accuracy, collision=0.9, chance=0.25)

    assert 0 < weights[1] < 0.1 < weights[0]


def test_collision_counts_the_same_wrong_answer_of_pairs_that_are_both_wrong() -> None:
    choices = [[1, 1, 2, 0, -1], [1, 2, 2, 1, 1], [0, 0, 0, 0, 0]]

    rate = collision_rate(choices, [0, 0, 0, 0, 0], chance=0.2)

    assert rate == pytest.approx(2 / 3)


def test_two_choices_always_collide() -> None:
    assert collision_rate([[1, 1], [1, 0]], [0, 0], chance=0.5) == 1.0


def test_siblings_are_discounted_by_their_error_correlation() -> None:
    generator = np.random.default_rng(2)
    first = generator.uniform(size=200) < 0.7
    correct = np.array([first, first, generator.uniform(size=200) < 0.7], dtype=float)
    families = ("a", "a", "b")

    correlations = family_error_correlations(correct, families)

    assert correlations == {"a": pytest.approx(1.0)}
    assert family_discounts(families, correlations).tolist() == pytest.approx([0.5, 0.5, 1.0])


def test_siblings_that_err_apart_are_not_discounted() -> None:
    correct = np.array([[1, 0, 1, 0], [0, 1, 0, 1]], dtype=float)

    correlations = family_error_correlations(correct, ("a", "a"))

    assert correlations == {"a": 0.0}
    assert math.isclose(family_discounts(("a", "a"), correlations)[0], 1.0)
