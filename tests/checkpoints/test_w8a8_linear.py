"""Layers with 8-bit weights and inputs: what rounding costs, what is multiplied, and what a description must say.

Axes: O output features, I input features, R rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.checkpoints import w8a8_linear
from ensemble.checkpoints.int8_linear import quantize_weight
from ensemble.checkpoints.w8a8_format import W8A8Format, has_w8a8_format
from ensemble.checkpoints.w8a8_linear import W8A8Linear, has_int8_products, quantize_float8, round_rows
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = (torch.int8, torch.float8_e4m3fn)
WAYS = [False, True] if has_int8_products() else [False]
"""Products of floats, and those of whole numbers, which saturate on a CPU that is not made for them."""


def build_layer(weight_OI: Tensor, dtype: torch.dtype, *, per_channel: bool, bias_O: Tensor | None) -> W8A8Linear:
    codes_OI, scale = (
        quantize_weight(weight_OI) if dtype == torch.int8 else quantize_float8(weight_OI, per_channel=per_channel)
    )
    num_out, num_in = weight_OI.shape
    layer = W8A8Linear(num_in, num_out, dtype=dtype, per_channel=per_channel, bias=bias_O is not None)
    assert (layer.weight.shape, layer.weight_scale.shape) == (codes_OI.shape, scale.shape)
    layer.weight.data, layer.weight_scale.data = codes_OI, scale
    if layer.bias is not None and bias_O is not None:
        layer.bias.data = bias_O
    return layer


@pytest.mark.parametrize("per_channel", [True, False])
@given(num_out=st.integers(1, 12), num_in=st.integers(1, 40), size=st.floats(1e-20, 1e20), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_float8_is_off_by_at_most_a_sixteenth_or_half_its_smallest_step(
    num_out: int, num_in: int, size: float, seed: int, *, per_channel: bool
) -> None:
    weight_OI = torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(seed)) * size

    codes_OI, scale = quantize_float8(weight_OI, per_channel=per_channel)

    error_OI = (codes_OI.double() * scale.double() - weight_OI.double()).abs()
    bound_OI = torch.maximum(weight_OI.double().abs() / 16, scale.double() * 2**-10) * (1 + 1e-5)
    assert (error_OI <= bound_OI).all()
    assert scale.shape == ((num_out, 1) if per_channel else (1,))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_s_largest_input_becomes_the_largest_code_and_zeros_stay_zero(dtype: torch.dtype) -> None:
    rows_RI = torch.tensor([[0.5, -2.0, 1.0], [0.0, 0.0, 0.0]])

    codes_RI, scale_R1 = round_rows(rows_RI, dtype)

    largest = 127 if dtype == torch.int8 else 448
    assert codes_RI.float().tolist()[0][1] == -largest
    assert codes_RI.float().tolist()[1] == [0, 0, 0]
    assert scale_R1[0].item() == pytest.approx(2 / largest)


@pytest.mark.parametrize("num_rows", [1, 17])
@pytest.mark.parametrize(("num_out", "num_in"), [(48, 64), (7, 577), (5, 3)])
@pytest.mark.parametrize("has_products", WAYS)
@pytest.mark.parametrize(("code_dtype", "per_channel"), [(DTYPES[0], True), (DTYPES[1], True), (DTYPES[1], False)])
def test_a_layer_multiplies_rounded_inputs_by_what_its_codes_stand_for(
    monkeypatch: pytest.MonkeyPatch,
    num_rows: int,
    num_out: int,
    num_in: int,
    code_dtype: torch.dtype,
    *,
    per_channel: bool,
    has_products: bool,
) -> None:
    monkeypatch.setattr(w8a8_linear, "has_int8_products", lambda: has_products)
    torch.manual_seed(3)
    bias_O, hidden_RI = torch.randn(num_out), torch.randn(num_rows, 1, num_in)
    layer = build_layer(torch.randn(num_out, num_in), code_dtype, per_channel=per_channel, bias_O=bias_O)

    output_RO = layer(hidden_RI)[:, 0]

    codes_RI, scale_R1 = round_rows(hidden_RI[:, 0], code_dtype)
    rounded_RI, weight_OI = codes_RI.double() * scale_R1, layer.weight.double() * layer.weight_scale
    expected_RO = rounded_RI @ weight_OI.T + bias_O
    assert output_RO.dtype == torch.float32
    assert torch.allclose(output_RO.double(), expected_RO, atol=1e-4)


@pytest.mark.parametrize("code_dtype", DTYPES)
def test_a_layer_answers_in_the_dtype_of_its_input(code_dtype: torch.dtype) -> None:
    layer = build_layer(torch.randn(7, 64), code_dtype, per_channel=True, bias_O=None)

    assert layer(torch.randn(2, 64).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "form",
    [
        W8A8Format(name="int-quantized", per_channel=True, ignore=("lm_head",)),
        W8A8Format(name="float-quantized", per_channel=True, ignore=()),
        W8A8Format(name="float-quantized", per_channel=False, ignore=("a.b",)),
    ],
)
def test_a_description_is_read_as_it_was_made_and_by_the_format_s_own_library(form: W8A8Format) -> None:
    config = pytest.importorskip("compressed_tensors.quantization").QuantizationConfig

    described = form.describe()

    assert has_w8a8_format(described)
    assert W8A8Format.read("x", described) == form
    group = config.model_validate(described).config_groups["group_0"]
    assert (group.weights.num_bits, group.input_activations.dynamic) == (8, True)


def spoil(**changes: Any) -> dict[str, Any]:
    described = W8A8Format(name="int-quantized", per_channel=True, ignore=()).describe()
    group = described["config_groups"]["group_0"]
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            group[part][name] = value
        else:
            (described if part in described else group)[part] = value
    return described


@pytest.mark.parametrize(
    "described",
    [
        spoil(weights__num_bits=4),
        spoil(weights__symmetric=False),
        spoil(weights__strategy="group"),
        spoil(weights__strategy="block"),
        spoil(input_activations__dynamic=False),
        spoil(input_activations__strategy="tensor"),
        spoil(input_activations=None),
        spoil(targets=["q_proj"]),
        spoil(quant_method="fp8"),
        spoil(config_groups={}),
        spoil(config_groups="all"),
    ],
)
def test_another_way_of_quantising_is_refused(described: object) -> None:
    with pytest.raises(CheckpointError, match="its 8-bit layers are not symmetric"):
        W8A8Format.read("x", described)
