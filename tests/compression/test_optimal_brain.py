"""Columns that make up for one another, and GPTQ's rounding on top.

Axes: O output features, I input features, R rows.
"""

from __future__ import annotations

import pytest
import torch

from ensemble.checkpoints.int4_linear import quantize_weight
from ensemble.compression.gptq import quantize_by_gptq
from ensemble.compression.optimal_brain import DAMPING, change_columns, factorise_inverse

GROUP = 32


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_correlated_inputs(num_rows: int, num_in: int) -> torch.Tensor:
    return draw(num_rows, num_in) @ (torch.eye(num_in) + 0.3 * draw(num_in, num_in, seed=1))


def test_the_factor_is_the_inverse_s() -> None:
    inputs_RI = draw_correlated_inputs(200, 16)
    gram_II = inputs_RI.T @ inputs_RI

    factor_II = factorise_inverse(gram_II, damping=0.1)

    damped_II = gram_II.double() + 0.1 * gram_II.double().diagonal().mean() * torch.eye(16)
    assert torch.allclose(factor_II.double().T @ factor_II.double() @ damped_II, torch.eye(16).double(), atol=1e-4)
    assert torch.equal(factor_II, factor_II.triu())


@pytest.mark.parametrize("block_size", [1, 3, 8])
def test_removing_columns_leaves_the_least_squares_solution_on_the_others(block_size: int) -> None:
    inputs_RI, weight_OI = draw_correlated_inputs(300, 8), draw(5, 8, seed=2)
    removed = (0, 1, 4)
    kept = [column for column in range(8) if column not in removed]
    factor_II = factorise_inverse(inputs_RI.T @ inputs_RI, damping=1e-9)
    begun: list[int] = []

    def plan_block(block_OS: torch.Tensor, _factor_S: torch.Tensor):  # type: ignore[no-untyped-def]
        start = sum(begun)
        begun.append(block_OS.shape[1])
        return lambda column, now_O: now_O * 0 if start + column in removed else now_O

    changed_OI = change_columns(weight_OI, factor_II, block_size, plan_block)

    # What was passed cannot make up for what is removed after it, so for each column the free ones are fitted again.
    expected_OI = weight_OI.double()
    for column in removed:
        free = [other for other in kept if other > column] + [other for other in removed if other > column]
        lost_RO = inputs_RI[:, column, None].double() * expected_OI[:, column]
        shift_FO = torch.linalg.lstsq(inputs_RI[:, free].double(), lost_RO).solution
        expected_OI[:, column] = 0
        expected_OI[:, free] += shift_FO.T
    assert torch.allclose(changed_OI.double(), expected_OI, atol=1e-4)
    assert not changed_OI[:, list(removed)].any()


def test_gptq_loses_less_output_than_rounding_to_the_nearest() -> None:
    inputs_RI, weight_OI = draw_correlated_inputs(400, 4 * GROUP), draw(16, 4 * GROUP, seed=3)

    codes_OI, scale_OG, rounded_OI = quantize_by_gptq(
        weight_OI, factorise_inverse(inputs_RI.T @ inputs_RI, DAMPING), GROUP
    )

    nearest_OI, nearest_OG = quantize_weight(weight_OI, GROUP)
    lost = (inputs_RI @ (rounded_OI - weight_OI).T).norm()
    lost_nearest = (inputs_RI @ (nearest_OI * nearest_OG.repeat_interleave(GROUP, dim=1) - weight_OI).T).norm()
    assert lost < 0.8 * lost_nearest
    assert codes_OI.dtype == torch.int8
    assert codes_OI.abs().max() == 7
    assert torch.equal(codes_OI * scale_OG.repeat_interleave(GROUP, dim=1), rounded_OI)


def test_gptq_s_scales_are_values_of_bfloat16() -> None:
    inputs_RI = draw_correlated_inputs(200, GROUP)

    _, scale_OG, _ = quantize_by_gptq(
        draw(16, GROUP, seed=3), factorise_inverse(inputs_RI.T @ inputs_RI, DAMPING), GROUP
    )

    assert torch.equal(scale_OG.bfloat16().float(), scale_OG)


def test_with_inputs_that_know_nothing_of_one_another_gptq_rounds_to_the_nearest() -> None:
    weight_OI = draw(16, 2 * GROUP)

    codes_OI, scale_OG, _ = quantize_by_gptq(weight_OI, factorise_inverse(torch.eye(2 * GROUP), DAMPING), GROUP)

    nearest_OI, nearest_OG = quantize_weight(weight_OI, GROUP)
    assert torch.equal(codes_OI, nearest_OI)
    assert torch.equal(scale_OG, nearest_OG)


def test_inputs_that_are_always_zero_leave_finite_weights() -> None:
    inputs_RI = draw_correlated_inputs(100, GROUP)
    inputs_RI[:, 5] = 0

    for gram_II in (inputs_RI.T @ inputs_RI, torch.zeros(GROUP, GROUP)):
        _, _, rounded_OI = quantize_by_gptq(draw(4, GROUP), factorise_inverse(gram_II, DAMPING), GROUP)
        assert torch.isfinite(rounded_OI).all()
