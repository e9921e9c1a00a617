"""Ridge regression against what can be said without it."""

from __future__ import annotations

import pytest
import torch

from ensemble.compression.ridge import Moments, choose_ridge


def draw(num_rows: int, *, seed: int, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    input_NI = torch.randn(num_rows, 5, generator=generator)
    return input_NI, input_NI @ weight_OI.T + noise * torch.randn(num_rows, 3, generator=generator)


def sum_up(*rows: tuple[torch.Tensor, torch.Tensor]) -> Moments:
    moments = Moments.empty(5, 3)
    for input_NI, target_NO in rows:
        moments.add(input_NI, target_NO)
    return moments


def test_a_hand_computed_fit() -> None:
    moments = Moments.empty(1, 1)
    moments.add(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [4.0]]))

    assert moments.solve(0.5).item() == pytest.approx(14 / (10 + 0.5 * 10))
    assert moments.explain(torch.tensor([[1.0]], dtype=torch.float64)) == pytest.approx(1 - (1 + 1) / 20)


def test_without_noise_and_almost_without_a_ridge_the_weight_is_found() -> None:
    input_NI, target_NO = draw(50, seed=1)
    moments = sum_up((input_NI[:20], target_NO[:20]), (input_NI[20:], target_NO[20:]))

    weight_OI = moments.solve(1e-9)

    assert torch.allclose(input_NI @ weight_OI.T.float(), target_NO, atol=1e-4)
    assert moments.explain(weight_OI) == pytest.approx(1.0, abs=1e-6)


def test_few_noisy_rows_want_a_stronger_ridge_than_many_clean_ones() -> None:
    judge = sum_up(draw(1000, seed=3))

    clean, _ = choose_ridge(sum_up(draw(1000, seed=1)), judge, (1e-6, 1e-3, 1.0))
    noisy, share = choose_ridge(sum_up(draw(6, seed=1, noise=3.0)), judge, (1e-6, 1e-3, 1.0))

    assert clean == 1e-6
    assert noisy == 1.0
    assert share < 1.0


def test_the_moments_of_two_sets_are_those_of_all_rows() -> None:
    input_NI, target_NO = draw(40, seed=1, noise=1.0)

    parts = sum_up((input_NI[:7], target_NO[:7])).plus(sum_up((input_NI[7:], target_NO[7:])))
    whole = sum_up((input_NI, target_NO))

    assert torch.allclose(parts.solve(0.1), whole.solve(0.1), atol=1e-6)
    assert torch.allclose(parts.energy_O, whole.energy_O)


def test_a_part_of_the_outputs_has_the_weight_of_these_outputs_alone() -> None:
    whole = sum_up(draw(40, seed=1, noise=1.0))

    thinned = whole.thin(2)

    assert torch.allclose(thinned.solve(0.1), whole.solve(0.1)[::2])
    assert torch.equal(thinned.energy_O, whole.energy_O[::2])


def test_inputs_that_are_all_zero_give_no_weight() -> None:
    moments = sum_up((torch.zeros(4, 5), torch.ones(4, 3)))

    assert torch.equal(moments.solve(0.1), torch.zeros(3, 5, dtype=torch.float64))
