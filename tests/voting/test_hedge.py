"""Hedge: the published weights, and bounds that no stream of losses can break."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import InvalidRequestError
from ensemble.voting.hedge import hedge_weights

START = {"a": 0.0, "b": 0.0, "c": 0.0}


def test_one_wrong_member_of_three_ends_at_the_published_weights() -> None:
    shifts = hedge_weights(START, {"a": 0.0, "b": 1.0, "c": 0.0}, eta=0.5, max_shift=2.0)

    total = sum(map(math.exp, shifts.values()))
    assert [math.exp(shift) / total for shift in shifts.values()] == pytest.approx(
        [0.383652, 0.232697, 0.383652], abs=1e-6
    )


@settings(max_examples=1000, deadline=None)
@given(
    losses=st.lists(st.tuples(*[st.floats(0.0, 1.0)] * 3), max_size=6),
    eta=st.floats(0.0, 1.0),
    max_shift=st.floats(0.0, 2.0),
)
def test_no_losses_move_a_weight_beyond_its_bounds(
    losses: list[tuple[float, float, float]], eta: float, max_shift: float
) -> None:
    shifts = START
    for row in losses:
        moved = hedge_weights(shifts, dict(zip("abc", row, strict=True)), eta=eta, max_shift=max_shift)

        assert all(abs(moved[member] - shifts[member]) <= eta + 1e-12 for member in START)
        assert all(abs(shift) <= max_shift for shift in moved.values())
        shifts = moved


def test_ten_thousand_lies_end_at_the_bound_and_the_truth_brings_it_back() -> None:
    lie, truth = {"a": 1.0, "b": 0.0, "c": 0.0}, {"a": 0.0, "b": 1.0, "c": 1.0}
    shifts = START
    for _ in range(10_000):
        shifts = hedge_weights(shifts, lie, eta=0.1, max_shift=0.7)
    poisoned = shifts
    for _ in range(100):
        shifts = hedge_weights(shifts, truth, eta=0.1, max_shift=0.7)

    assert poisoned == {"a": -0.7, "b": 0.7, "c": 0.7}
    assert shifts == {"a": 0.7, "b": -0.7, "c": -0.7}


@pytest.mark.parametrize("loss", [0.0, 0.4, 1.0])
def test_what_all_get_wrong_teaches_nothing(loss: float) -> None:
    before = {"a": 0.3, "b": -0.2, "c": 0.0}

    after = hedge_weights(before, dict.fromkeys(before, loss), eta=0.5, max_shift=1.0)

    assert after == pytest.approx(before, abs=1e-15)


def test_the_best_member_gains_most_in_the_long_run() -> None:
    """Hedge's regret against the best of n experts after T rounds is at most ln(n)/eta + eta T/8."""
    eta, num_rounds, total = 0.2, 400, 0.0
    shifts = START
    for n in range(num_rounds):
        losses = {"a": float(n % 5 == 0), "b": float(n % 2 == 0), "c": float(n % 3 != 0)}
        weights = {member: math.exp(shift) for member, shift in shifts.items()}
        total += sum(weights[member] * losses[member] for member in losses) / sum(weights.values())
        shifts = hedge_weights(shifts, losses, eta=eta, max_shift=1000.0)

    assert max(shifts, key=shifts.__getitem__) == "a"
    assert total - num_rounds / 5 <= math.log(3) / eta + eta * num_rounds / 8


@pytest.mark.parametrize(
    ("losses", "eta", "max_shift", "field"),
    [
        ({"a": 0.0, "b": 0.0}, 0.1, 1.0, "losses"),
        ({**START, "d": 0.0}, 0.1, 1.0, "losses"),
        ({**START, "a": 1.5}, 0.1, 1.0, "losses"),
        ({**START, "a": float("nan")}, 0.1, 1.0, "losses"),
        (START, -0.1, 1.0, "eta"),
        (START, 0.1, float("inf"), "max_shift"),
    ],
)
def test_what_is_no_round_of_losses_is_refused(
    losses: dict[str, float], eta: float, max_shift: float, field: str
) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        hedge_weights(START, losses, eta=eta, max_shift=max_shift)
