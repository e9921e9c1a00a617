"""Eight-bit layers: what rounding costs, and every path of the product.

Axes: O output features, I input features, R rows.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ensemble.checkpoints.int8_format import pack_tensors, unpack_tensors
from ensemble.checkpoints.int8_linear import Int8Linear, quantize_weight
from ensemble.checkpoints.layer_names import is_ignored

BFLOAT16_ROUNDING = 2**-8
"""Largest relative error of a float that is rounded to bfloat16, which has 8 significant bits."""


def build_layer(weight_OI: Tensor, *, bias_O: Tensor | None = None) -> Int8Linear:
    codes_OI, scale_O1 = quantize_weight(weight_OI)
    layer = Int8Linear(weight_OI.shape[1], weight_OI.shape[0], bias=bias_O is not None)
    layer.weight.data, layer.weight_scale.data = codes_OI, scale_O1
    if layer.bias is not None and bias_O is not None:
        layer.bias.data = bias_O
    return layer


@given(st.integers(1, 12), st.integers(1, 40), st.floats(1e-20, 1e20), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_rounding_is_off_by_at_most_half_a_step(num_out: int, num_in: int, size: float, seed: int) -> None:
    weight_OI = torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(seed)) * size

    codes_OI, scale_O1 = quantize_weight(weight_OI)

    error_OI = (codes_OI.double() * scale_O1.double() - weight_OI.double()).abs()
    assert (error_OI <= 0.5 * scale_O1.double() * (1 + 1e-5)).all()
    assert codes_OI.abs().max() <= 127


def test_a_row_of_zeros_stays_zero() -> None:
    codes_OI, scale_O1 = quantize_weight(torch.zeros(2, 16))

    assert not codes_OI.any()
    assert torch.isfinite(scale_O1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_multiplies_by_what_its_codes_stand_for(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    bias_O = torch.randn(7)
    layer = build_layer(torch.randn(7, 40), bias_O=bias_O)
    hidden_RI = torch.randn(5, 40).to(dtype)
    weight_OI = layer.weight.double() * layer.weight_scale.double()

    output_RO = layer(hidden_RI)

    expected_RO = hidden_RI.double() @ weight_OI.T + bias_O.double()
    rounding = 1e-6 if dtype == torch.float32 else 2 * BFLOAT16_ROUNDING
    bound_RO = rounding * (hidden_RI.double().abs() @ weight_OI.abs().T + bias_O.double().abs())
    assert output_RO.dtype == dtype
    assert ((output_RO.double() - expected_RO).abs() <= bound_RO).all()


def test_leading_axes_are_kept() -> None:
    layer = build_layer(torch.randn(8, 16))

    assert layer(torch.randn(2, 3, 16)).shape == (2, 3, 8)


@pytest.mark.parametrize("num_in", [1, 3, 4, 16, 33])
def test_codes_survive_the_way_to_disk_and_back(num_in: int) -> None:
    codes_OI = torch.randint(-127, 128, (5, num_in), dtype=torch.int8)

    packed = pack_tensors({"x.weight": codes_OI, "x.bias": torch.ones(5)})
    unpacked = unpack_tensors(packed)

    assert packed["x.weight_packed"].shape == (5, -(-num_in // 4))
    assert torch.equal(unpacked["x.weight"], codes_OI)
    assert torch.equal(unpacked["x.bias"], torch.ones(5))


def test_packed_words_are_those_of_compressed_tensors() -> None:
    # Made with compressed-tensors 0.20: pack_to_int32(codes, num_bits=8).
    packed = pack_tensors({"x.weight": torch.tensor([[-127, -1, 0, 1, 127, 5]], dtype=torch.int8)})

    assert packed["x.weight_packed"].tolist() == [[-2122285311, 34303]]
    assert packed["x.weight_shape"].tolist() == [1, 6]


@pytest.mark.parametrize(
    ("ignore", "ignored"),
    [
        (("lm_head",), True),
        (("head",), False),
        (("model.lm_head",), True),
        (("re:.*head",), True),
        (("re:head",), False),
        ((), False),
    ],
)
def test_layers_are_ignored_by_full_name_last_part_or_pattern(ignore: tuple[str, ...], ignored: bool) -> None:  # noqa: FBT001
    assert is_ignored("model.lm_head", ignore) is ignored


def test_a_layer_says_its_shape() -> None:
    assert "in_features=4, out_features=2" in repr(nn.Sequential(Int8Linear(4, 2, bias=False)))


def test_scales_are_values_of_bfloat16() -> None:
    _, scale_O1 = quantize_weight(torch.randn(16, 40, generator=torch.Generator().manual_seed(1)))

    assert torch.equal(scale_O1.bfloat16().float(), scale_O1)
