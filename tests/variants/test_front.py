"""The front has every variant that nothing as cheap betters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ensemble.variants.front import find_front


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_a_point_is_on_the_front_unless_another_is_as_cheap_and_as_good_and_better_in_one(
    figures: list[tuple[int, int]],
) -> None:
    front = find_front(figures, cost=lambda one: one[0], loss=lambda one: one[1])

    undominated = {
        one
        for one in figures
        if not any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in figures)
    }
    assert list(front) == sorted(undominated)
