"""Four-bit layers: what rounding costs, how codes lie on disk, and what a description must say.

Axes: O output features, I input features, R rows.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.checkpoints.int4_format import Int4Layers, describe_int4, is_int4, read_int4_layers
from ensemble.checkpoints.int4_linear import (
    Int4Linear,
    choose_group_size,
    has_exact_products,
    pack_codes,
    quantize_weight,
    unpack_codes,
)
from ensemble.checkpoints.int8_format import describe_int8
from ensemble.errors import CheckpointError

LAYERS = Int4Layers(
    group_size_by_layer={"model.layers.0.q": 128, "model.layers.0.k": 32}, int8_layers=("model.layers.0.v", "lm_head")
)


@given(st.integers(1, 6), st.integers(1, 3), st.floats(1e-20, 1e20), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_rounding_is_off_by_at_most_half_a_step_and_zero_stays_zero(
    num_out: int, num_groups: int, size: float, seed: int
) -> None:
    weight_OI = torch.randn(num_out, 32 * num_groups, generator=torch.Generator().manual_seed(seed)) * size
    weight_OI[:, ::3] = 0

    codes_OI, scale_OG = quantize_weight(weight_OI, 32)

    scale_OI = scale_OG.double().repeat_interleave(32, dim=1)
    error_OI = (codes_OI.double() * scale_OI - weight_OI.double()).abs()
    assert (error_OI <= 0.5 * scale_OI * (1 + 1e-5)).all()
    assert codes_OI.abs().max() <= 7
    assert not codes_OI[:, ::3].any()


def test_a_group_of_zeros_stays_zero() -> None:
    codes_OI, scale_OG = quantize_weight(torch.zeros(2, 64), 32)

    assert not codes_OI.any()
    assert torch.equal(scale_OG, torch.ones(2, 2))


def test_every_code_survives_the_way_into_words_and_back() -> None:
    codes_OI = torch.randint(-8, 8, (5, 64), generator=torch.Generator().manual_seed(1)).to(torch.int8)

    words_OJ = pack_codes(codes_OI)

    assert (words_OJ.dtype, words_OJ.shape) == (torch.int32, (5, 8))
    assert torch.equal(unpack_codes(words_OJ), codes_OI)


def test_the_first_code_is_lowest_and_offset_by_eight() -> None:
    # By the format's definition: -8 is 0, -7 is 1, 7 is 15; the eighth code fills the sign.
    words_OJ = pack_codes(torch.tensor([[-7, -8, -8, -8, -8, -8, -8, -8], [0, 0, 0, 0, 0, 0, 0, 7]], dtype=torch.int8))

    assert words_OJ.tolist() == [[1], [0xF8888888 - 2**32]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_multiplies_by_what_its_codes_stand_for(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    codes_OI, scale_OG = quantize_weight(torch.randn(7, 64), 32)
    layer = Int4Linear(64, 7, group_size=32, bias=True)
    layer.weight_packed.data, layer.weight_scale.data = pack_codes(codes_OI), scale_OG
    assert layer.bias is not None
    layer.bias.data = torch.randn(7).to(dtype)
    hidden_RI = torch.randn(2, 3, 64).to(dtype)

    output_RO = layer(hidden_RI)

    weight_OI = codes_OI.double() * scale_OG.double().repeat_interleave(32, dim=1)
    expected_RO = hidden_RI.double() @ weight_OI.T + layer.bias.double()
    assert output_RO.dtype == dtype
    assert torch.allclose(output_RO.double(), expected_RO, atol=1e-4 if dtype == torch.float32 else 0.2)


@pytest.mark.parametrize(("in_features", "size"), [(256, 128), (192, 64), (96, 32), (100, None)])
def test_the_group_is_the_largest_that_divides(in_features: int, size: int | None) -> None:
    assert choose_group_size(in_features) == size


def test_a_description_is_read_as_it_was_made() -> None:
    described = describe_int4(LAYERS, ignore=("model.layers.0.o",))

    assert is_int4(described)
    assert read_int4_layers("x", described) == LAYERS
    assert not is_int4(describe_int8(ignore=()))


def spoil(**changes: Any) -> dict[str, Any]:
    described = describe_int4(Int4Layers(group_size_by_layer={"model.layers.0.q": 128}), ignore=())
    group = described["config_groups"]["group_0"]
    for key, value in changes.items():
        target = described if key in described else group if key in group else group["weights"]
        target[key] = value
    return described


@pytest.mark.parametrize(
    "described",
    [
        spoil(group_size=16),
        spoil(symmetric=False),
        spoil(strategy="channel"),
        spoil(targets=["Linear"]),
        spoil(targets="model.layers.0.q"),
        spoil(quant_method="gptq"),
        spoil(input_activations={"num_bits": 8}),
        {},
        None,
    ],
)
def test_another_way_of_quantising_is_refused(described: object) -> None:
    with pytest.raises(CheckpointError, match="4-bit weights are not in groups"):
        read_int4_layers("x", described)


@pytest.mark.parametrize("size", [1e-20, 1.0, 3e4])
def test_every_code_times_its_scale_is_a_value_of_bfloat16(size: float) -> None:
    weight_OI = torch.randn(16, 256, generator=torch.Generator().manual_seed(1)) * size

    _, scale_OG = quantize_weight(weight_OI, 32)

    for code in range(-8, 8):
        assert torch.equal((code * scale_OG).bfloat16().float(), code * scale_OG)
    assert has_exact_products(scale_OG)
    assert not has_exact_products(1.1 * scale_OG)


def test_scales_are_values_of_bfloat16_before_codes_are_rounded_for_them() -> None:
    weight_OI = torch.randn(16, 128, generator=torch.Generator().manual_seed(1))

    codes_OI, scale_OG = quantize_weight(weight_OI, 32)

    assert scale_OG.dtype == torch.float32
    assert torch.equal(scale_OG.bfloat16().float(), scale_OG)
    scaled_OI = weight_OI / scale_OG.repeat_interleave(32, dim=1)
    assert torch.equal(codes_OI, scaled_OI.round().clamp(-7, 7).to(torch.int8))
