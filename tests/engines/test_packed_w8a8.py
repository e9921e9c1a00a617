"""Layers with 8-bit weights and inputs as a CPU multiplies them, against the ones that lie in a checkpoint.

Axes: O output features, I input features, R rows.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ensemble.checkpoints.int8_linear import quantize_weight
from ensemble.checkpoints.w8a8_linear import W8A8Linear, has_int8_products
from ensemble.engines.layer_packing import pack_layers
from ensemble.engines.packed_w8a8 import PackedW8A8Linear, can_pack_w8a8

pytestmark = pytest.mark.skipif(not has_int8_products(), reason="this CPU has no products of whole numbers")


def build(num_out: int, num_in: int, *, bias: bool = False) -> W8A8Linear:
    layer = W8A8Linear(num_in, num_out, dtype=torch.int8, per_channel=True, bias=bias)
    layer.weight.data, layer.weight_scale.data = quantize_weight(torch.randn(num_out, num_in))
    if layer.bias is not None:
        layer.bias.data = torch.randn(num_out)
    return layer


@pytest.mark.parametrize("num_rows", [1, 3, 16, 70])
@pytest.mark.parametrize(("num_out", "num_in"), [(48, 64), (7, 16), (5, 41), (576, 592)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_packed_layer_gives_what_the_plain_one_does(
    num_rows: int, num_out: int, num_in: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    layer = build(num_out, num_in, bias=True)
    hidden_RI = torch.randn(2, num_rows, num_in).to(dtype)
    hidden_RI[0, 0] = 0

    packed_RO = PackedW8A8Linear(layer)(hidden_RI)

    assert packed_RO.dtype == dtype
    # Sums are whole numbers; what is left are the last digits of the output's dtype.
    error = 1e-5 if dtype == torch.float32 else 0.01
    torch.testing.assert_close(packed_RO, layer(hidden_RI), rtol=error, atol=error)


def test_the_largest_inputs_and_codes_add_up_without_saturation() -> None:
    layer = build(4, 4096)
    layer.weight.data = torch.full((4, 4096), 127, dtype=torch.int8)
    layer.weight_scale.data = torch.ones(4, 1)

    output_RO = PackedW8A8Linear(layer)(torch.cat([torch.full((1, 4096), 127.0), torch.full((2, 4096), -127.0)]))

    assert output_RO[:, 0].tolist() == [127 * 127 * 4096, -127 * 127 * 4096, -127 * 127 * 4096]


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    torch.manual_seed(6)
    layer = PackedW8A8Linear(build(128, 256))
    hidden_RI = torch.randn(33, 256)

    together_RO = layer(hidden_RI)
    alone_RO = torch.cat([layer(hidden_I[None]) for hidden_I in hidden_RI])

    assert torch.equal(together_RO, alone_RO)


def test_a_packed_layer_still_shows_its_weight() -> None:
    layer = build(7, 20)

    assert torch.equal(PackedW8A8Linear(layer).weight, layer.weight * layer.weight_scale)


def test_whole_numbers_are_packed_and_float8_is_not() -> None:
    float8 = W8A8Linear(8, 8, dtype=torch.float8_e4m3fn, per_channel=True, bias=False)
    model = nn.ModuleDict({"a": build(8, 8), "b": float8})

    pack_layers(model, torch.bfloat16)

    assert [type(layer) for layer in model.values()] == [PackedW8A8Linear, W8A8Linear]
    assert not can_pack_w8a8(float8)
