"""Linear layers with few bits, made in a moment from random weights.

Axes: O output features, I input features.
"""

from __future__ import annotations

import torch

from ensemble.checkpoints import int4_linear, int8_linear
from ensemble.checkpoints.int4_linear import Int4Linear
from ensemble.checkpoints.int8_linear import Int8Linear

BFLOAT16_ROUNDING = 2**-8
"""Largest relative error of a float that is rounded to bfloat16, which has 8 significant bits."""


def build_int4(num_out: int, num_in: int, *, group_size: int, bias: bool = False) -> Int4Linear:
    """Round a random weight to 4 bits."""
    codes_OI, scale_OG = int4_linear.quantize_weight(torch.randn(num_out, num_in), group_size)
    layer = Int4Linear(num_in, num_out, group_size=group_size, bias=bias)
    layer.weight_packed.data, layer.weight_scale.data = int4_linear.pack_codes(codes_OI), scale_OG
    if layer.bias is not None:
        layer.bias.data = torch.randn(num_out)
    return layer


def build_int8(num_out: int, num_in: int, *, bias: bool = False) -> Int8Linear:
    """Round a random weight to 8 bits."""
    layer = Int8Linear(num_in, num_out, bias=bias)
    layer.weight.data, layer.weight_scale.data = int8_linear.quantize_weight(torch.randn(num_out, num_in))
    if layer.bias is not None:
        layer.bias.data = torch.randn(num_out)
    return layer
