"""Four-bit layers as a CPU multiplies them: every path of the product, and what is not packed.

Axes: O output features, I input features, R rows.
"""

from __future__ import annotations

import pytest
import torch

from ensemble.engines import packed_int4
from ensemble.engines.packed_int4 import PACKED_MAX_ROWS, PackedInt4Linear, can_pack_int4, find_panel_width
from ensemble.engines.packed_linear import can_pack
from tests.engines.rounded_layers import BFLOAT16_ROUNDING, build_int4

pytestmark = pytest.mark.skipif(not can_pack(), reason="this CPU gains nothing by packing")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
SHAPES = pytest.mark.parametrize(("num_out", "num_in", "group_size"), [(64, 32, 32), (192, 192, 64), (128, 640, 128)])


@DTYPES
@SHAPES
@pytest.mark.parametrize("num_rows", [1, 3, PACKED_MAX_ROWS, PACKED_MAX_ROWS + 1, 150])
@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_number_of_rows_gives_the_product_of_the_unpacked_weight_within_bfloat16s_rounding(
    num_rows: int, num_out: int, num_in: int, group_size: int, dtype: torch.dtype, hidden_dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    layer = build_int4(num_out, num_in, group_size=group_size, bias=True)
    hidden_RI = torch.randn(num_rows, num_in).to(hidden_dtype)

    output_RO = PackedInt4Linear(layer, dtype)(hidden_RI)

    assert layer.bias is not None
    weight_OI, bias_O = layer.weight.double(), layer.bias.double()
    expected_RO = hidden_RI.double() @ weight_OI.T + bias_O
    # Inputs, weights and output are rounded once each.
    bound_RO = 3 * BFLOAT16_ROUNDING * (hidden_RI.double().abs() @ weight_OI.abs().T + bias_O.abs())
    assert output_RO.dtype == hidden_dtype
    assert ((output_RO.double() - expected_RO).abs() <= bound_RO).all()


@DTYPES
def test_few_rows_and_many_differ_by_the_order_of_sums_alone(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    layer = PackedInt4Linear(build_int4(128, 256, group_size=64), dtype)
    hidden_RI = torch.randn(2 * PACKED_MAX_ROWS, 256)

    many_RO = layer(hidden_RI)
    few_RO = torch.cat([layer(half_RI) for half_RI in hidden_RI.chunk(2)])

    # Another order makes some sums round to the next bfloat16, and most to the very same.
    assert (many_RO == few_RO).float().mean() > 0.99
    torch.testing.assert_close(many_RO, few_RO, rtol=2 * BFLOAT16_ROUNDING, atol=0.01)


def test_scales_that_bfloat16_cannot_hold_cost_their_own_rounding_alone() -> None:
    torch.manual_seed(5)
    layer = build_int4(64, 128, group_size=32)
    layer.weight_scale.data = layer.weight_scale.data * (1 + torch.rand(64, 4))

    packed = PackedInt4Linear(layer, torch.bfloat16)

    # One input is 1, which is exact, so that only scale and output are rounded.
    for hidden_RI in (torch.eye(128), torch.eye(128)[:8]):
        weight_RO = layer.weight.T[: len(hidden_RI)]
        assert ((packed(hidden_RI) - weight_RO).abs() <= 2.01 * BFLOAT16_ROUNDING * weight_RO.abs()).all()
    assert packed.weight.dtype == torch.float32


def test_scales_of_ours_are_unpacked_into_bfloat16_without_rounding() -> None:
    layer = build_int4(64, 128, group_size=32)

    packed = PackedInt4Linear(layer, torch.bfloat16)

    assert packed.weight.dtype == torch.bfloat16
    assert torch.equal(packed.weight.float(), layer.weight)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    torch.manual_seed(6)
    layer = PackedInt4Linear(build_int4(128, 256, group_size=64), torch.bfloat16)
    hidden_RI = torch.randn(PACKED_MAX_ROWS, 256)

    together_RO = layer(hidden_RI)
    alone_RO = torch.cat([layer(hidden_I[None]) for hidden_I in hidden_RI])

    assert torch.equal(together_RO, alone_RO)


@pytest.mark.parametrize("num_rows", [2, 200])
def test_leading_axes_are_kept(num_rows: int) -> None:
    layer = PackedInt4Linear(build_int4(64, 32, group_size=32), torch.bfloat16)

    assert layer(torch.randn(3, num_rows, 32)).shape == (3, num_rows, 64)


@SHAPES
def test_a_packed_layer_takes_as_much_memory_as_the_codes_and_scales_on_disk(
    num_out: int, num_in: int, group_size: int
) -> None:
    layer = build_int4(num_out, num_in, group_size=group_size)

    packed = PackedInt4Linear(layer, torch.bfloat16)

    held = [value for value in vars(packed).values() if isinstance(value, torch.Tensor)]
    on_disk = layer.weight_packed.nbytes + layer.weight_scale.nbytes
    assert sum(tensor.nbytes for tensor in held) == on_disk


def test_a_packed_layer_still_shows_its_weight() -> None:
    layer = build_int4(192, 64, group_size=64)

    assert torch.equal(PackedInt4Linear(layer, torch.float32).weight, layer.weight)


def test_all_codes_of_four_bits_are_multiplied() -> None:
    layer = build_int4(64, 32, group_size=32)
    # -8 is none of ours, but another's way of rounding may use it.
    layer.weight_packed.data = torch.randint(-(2**31), 2**31, (64, 4)).to(torch.int32)
    layer.weight_scale.data.fill_(1.0)

    output_RO = PackedInt4Linear(layer, torch.float32)(torch.eye(32))

    assert layer.codes.min() == -8
    assert torch.equal(output_RO, layer.codes.float().T)


def test_output_features_that_fill_no_whole_panels_are_not_packed() -> None:
    assert not can_pack_int4(build_int4(find_panel_width() + 16, 32, group_size=32))


def test_the_layouts_of_processors_that_gain_by_packing_are_known() -> None:
    assert find_panel_width() in {32, 64}


def test_a_layout_that_is_not_known_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = packed_int4._pack
    monkeypatch.setattr(packed_int4, "_pack", lambda codes_OI: pack(codes_OI).flip(0))
    find_panel_width.cache_clear()

    try:
        assert find_panel_width() == 0
        assert not can_pack_int4(build_int4(64, 32, group_size=32))
    finally:
        find_panel_width.cache_clear()
