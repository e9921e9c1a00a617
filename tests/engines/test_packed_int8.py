"""Eight-bit layers as a CPU multiplies them: every path of the product, and what is not packed.

Axes: O output features, I input features, R rows.
"""

from __future__ import annotations

import pytest
import torch

from ensemble.engines.packed_int8 import PACKED_MAX_ROWS, PackedInt8Linear, can_pack_int8
from ensemble.engines.packed_linear import can_pack
from tests.engines.rounded_layers import BFLOAT16_ROUNDING, build_int8

pytestmark = pytest.mark.skipif(not can_pack(), reason="this CPU gains nothing by packing")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@DTYPES
@pytest.mark.parametrize("num_rows", [1, 3, PACKED_MAX_ROWS, PACKED_MAX_ROWS + 1, 70])
@pytest.mark.parametrize(("num_out", "num_in"), [(48, 64), (7, 16), (5, 48), (576, 592)])
@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_number_of_rows_gives_the_product_within_bfloat16s_rounding(
    num_rows: int, num_out: int, num_in: int, dtype: torch.dtype, hidden_dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    layer = build_int8(num_out, num_in, bias=True)
    hidden_RI = torch.randn(num_rows, num_in).to(hidden_dtype)

    output_RO = PackedInt8Linear(layer, dtype)(hidden_RI)

    assert layer.bias is not None
    weight_OI, bias_O = layer.weight.double() * layer.weight_scale.double(), layer.bias.double()
    expected_RO = hidden_RI.double() @ weight_OI.T + bias_O
    # Inputs (or the output, to bfloat16) and product are rounded once each; float32's own rounding is far less.
    bound_RO = 2 * BFLOAT16_ROUNDING * (hidden_RI.double().abs() @ weight_OI.abs().T + bias_O.abs())
    assert output_RO.dtype == hidden_dtype
    assert ((output_RO.double() - expected_RO).abs() <= bound_RO).all()


@DTYPES
def test_few_rows_and_many_differ_by_the_order_of_sums_alone(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    layer = PackedInt8Linear(build_int8(128, 256), dtype)
    hidden_RI = torch.randn(2 * PACKED_MAX_ROWS, 256)

    many_RO = layer(hidden_RI)
    few_RO = torch.cat([layer(half_RI) for half_RI in hidden_RI.chunk(2)])

    # Another order makes some sums round to the next bfloat16, and most to the very same.
    assert (many_RO == few_RO).float().mean() > 0.99
    torch.testing.assert_close(many_RO, few_RO, rtol=2 * BFLOAT16_ROUNDING, atol=0.01)


@DTYPES
@pytest.mark.parametrize("num_rows", [PACKED_MAX_ROWS, 64])
def test_scales_and_bias_are_applied_in_float32(num_rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    layer = build_int8(48, 64, bias=True)
    # Rows of the identity and codes below 2**8 are bfloat16 numbers, and so are their products.
    hidden_RI = torch.eye(num_rows, 64)

    output_RO = PackedInt8Linear(layer, dtype)(hidden_RI)

    assert layer.bias is not None
    scaled_RO = (layer.weight.double() * layer.weight_scale.double()).T[:num_rows]
    bias_O = layer.bias.double()
    # Two operations in float32, then the rounding of the output.
    bound_RO = 2**-23 * (scaled_RO.abs() + bias_O.abs()) + 2**-24 * (scaled_RO + bias_O).abs()
    assert ((output_RO.double() - scaled_RO - bias_O).abs() <= bound_RO).all()


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    torch.manual_seed(6)
    layer = PackedInt8Linear(build_int8(128, 256), torch.bfloat16)
    hidden_RI = torch.randn(PACKED_MAX_ROWS, 256)

    together_RO = layer(hidden_RI)
    alone_RO = torch.cat([layer(hidden_I[None]) for hidden_I in hidden_RI])

    assert torch.equal(together_RO, alone_RO)


@pytest.mark.parametrize("offset", [1, 8, 24])
def test_weights_and_inputs_at_odd_addresses_are_multiplied_rightly(offset: int) -> None:
    layer = build_int8(32, 64)
    hidden_RI = torch.randn(4, 64, dtype=torch.bfloat16)
    expected_RO = PackedInt8Linear(layer, torch.bfloat16)(hidden_RI)
    layer.weight.data = torch.empty(32 * 64 + offset, dtype=torch.int8)[offset:].view(32, 64).copy_(layer.weight)
    moved_RI = torch.empty(4 * 64 + offset, dtype=torch.bfloat16)[offset:].view(4, 64).copy_(hidden_RI)

    moved_RO = PackedInt8Linear(layer, torch.bfloat16)(moved_RI)

    assert torch.equal(moved_RO, expected_RO)


def test_a_packed_layer_shares_its_codes_with_the_layer_that_it_was_made_of() -> None:
    layer = build_int8(48, 64)

    packed = PackedInt8Linear(layer, torch.bfloat16)

    assert packed._codes_OI.data_ptr() == layer.weight.data_ptr()
    assert torch.equal(packed.weight, layer.weight * layer.weight_scale)


def test_input_features_that_the_kernel_would_read_beyond_are_not_packed() -> None:
    assert can_pack_int8(build_int8(4, 48))
    assert not can_pack_int8(build_int8(4, 40))
