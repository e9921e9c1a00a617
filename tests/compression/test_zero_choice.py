"""Which weights go, computed by hand."""

from __future__ import annotations

import pytest
import torch

from ensemble.compression.zero_choice import choose_channels, choose_in_layer, choose_in_pattern, choose_in_rows

WEIGHT_OI = torch.tensor(
    [
        [3.0, -0.5, 1.0, 0.2],
        [-1.0, 0.25, -4.0, 0.1],
        [0.625, -0.75, 0.4, 0.3],
        [1.0, 2.0, -2.0, 0.05],
    ]
)


def test_the_smallest_magnitudes_of_a_layer_go_and_the_earlier_of_equals() -> None:
    gone_OI = choose_in_layer(WEIGHT_OI.abs(), 0.625)

    # 10 of 16: 0.05 0.1 0.2 0.25 0.3 0.4 0.5 0.625 0.75, and of three ones the first.
    assert WEIGHT_OI.masked_fill(gone_OI, 0.0).tolist() == [
        [3.0, 0.0, 0.0, 0.0],
        [-1.0, 0.0, -4.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [1.0, 2.0, -2.0, 0.0],
    ]


def test_in_rows_each_output_loses_as_many() -> None:
    gone_OI = choose_in_rows(WEIGHT_OI.abs(), 0.5)

    assert WEIGHT_OI.masked_fill(gone_OI, 0.0).tolist() == [
        [3.0, 0.0, 1.0, 0.0],
        [-1.0, 0.0, -4.0, 0.0],
        [0.625, -0.75, 0.0, 0.0],
        [0.0, 2.0, -2.0, 0.0],
    ]


def test_in_a_pattern_each_group_of_neighbours_loses_as_many() -> None:
    weight_OI = torch.tensor([[1.0, 2.0, 3.0, 4.0, 8.0, 7.0, 6.0, 5.0], [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 1.0, 2.0]])

    two_of_four = weight_OI.masked_fill(choose_in_pattern(weight_OI, "2:4"), 0.0)
    four_of_eight = weight_OI.masked_fill(choose_in_pattern(weight_OI, "4:8"), 0.0)

    assert two_of_four.tolist() == [[0, 0, 3, 4, 8, 7, 0, 0], [0, 0, 0, 0, 0, 2, 0, 2]]
    assert four_of_eight.tolist() == [[0, 0, 0, 0, 8, 7, 6, 5], [0, 0, 0, 0, 1, 2, 1, 2]]


def test_channels_go_by_their_largest_magnitude_and_the_earlier_of_equals() -> None:
    # Largest of each row: 3, 4, 0.75, 2; so of four channels the third and the fourth go.
    half_OI = WEIGHT_OI.masked_fill(choose_channels(WEIGHT_OI, 0.5), 0.0)
    # Largest of each: 2, 1, 1.
    third_OI = choose_channels(torch.tensor([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]), 1 / 3)

    assert half_OI.tolist() == [WEIGHT_OI[0].tolist(), WEIGHT_OI[1].tolist(), [0.0] * 4, [0.0] * 4]
    assert third_OI.tolist() == [[False, False], [True, True], [False, False]]


@pytest.mark.parametrize(("sparsity", "num_gone"), [(0.01, 0), (0.1, 2), (0.5, 8), (0.97, 16)])
def test_the_share_is_rounded_to_whole_weights(sparsity: float, num_gone: int) -> None:
    assert int(choose_in_layer(WEIGHT_OI, sparsity).sum()) == num_gone
