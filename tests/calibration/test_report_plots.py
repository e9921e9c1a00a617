"""Savings that differ by next to nothing are not drawn as if they differed."""

from __future__ import annotations

import pytest

from ensemble.calibration.plot_style import build_figure
from ensemble.calibration.report_plots import MIN_SPAN, widen


@pytest.mark.parametrize("values", [[0.8, 0.8], [0.8, 0.8004], [0.0, 0.0]])
def test_an_axis_of_like_values_shows_the_least_span_with_at_most_three_digits(values: list[float]) -> None:
    _, (axis,) = build_figure(4.0, 3.0)

    widen(axis.yaxis, values)

    low, high = axis.get_ylim()
    labels = [axis.yaxis.get_major_formatter()(value) for value in axis.yaxis.get_majorticklocs()]
    assert high - low == pytest.approx(MIN_SPAN)
    assert low + high == pytest.approx(min(values) + max(values))
    assert len(set(labels)) == len(labels)
    assert all(len(label.partition(".")[2]) <= 3 and not label.startswith("-0.000") for label in labels)


def test_values_far_apart_keep_their_span_and_a_margin() -> None:
    _, (axis,) = build_figure(4.0, 3.0)

    widen(axis.xaxis, [0.0, 0.5])

    assert axis.get_xlim() == pytest.approx((-0.025, 0.525))
