"""The front has every variant that nothing as cheap betters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ensemble.variants.front import Point, find_front


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_a_point_is_on_the_front_unless_another_is_as_cheap_and_as_good_and_better_in_one(
    figures: list[tuple[int, int]],
) -> None:
    points = [Point(name=str(n), cost=cost, loss=loss) for n, (cost, loss) in enumerate(figures)]

    front = find_front(points)

    undominated = {
        (one.cost, one.loss)
        for one in points
        if not any(
            other.cost <= one.cost and other.loss <= one.loss and (other.cost, other.loss) != (one.cost, one.loss)
            for other in points
        )
    }
    assert [(one.cost, one.loss) for one in front] == sorted(undominated)
