"""A linear layer whose weight is kept in 4 bits, a scale for each group of input features.

Axes: O output features, I input features, G groups of S input features, J int32 words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUP_SIZES = (128, 64, 32)
LARGEST_CODE = 7
_BITS = 4
_CODES_PER_WORD = 8
CODE_OFFSET = 8
"""Codes lie on disk and in memory as 0 to 15."""
_SCALE_BITS = 5


def choose_group_size(in_features: int) -> int | None:
    """Give the largest group that divides a layer's input features; None when there is none."""
    return next((size for size in GROUP_SIZES if in_features % size == 0), None)


def choose_group_scale(largest: Tensor) -> Tensor:
    """Give the scales (float32) by which magnitudes become about the largest code; 1 where the magnitude is 0.

    They have 5 significant bits, so that a code times its scale is a value of bfloat16, which has 8: unpacked into
    bfloat16 a weight is still what its codes stand for. The largest code is off by less than a half for it.
    """
    significand, exponent = torch.frexp(largest.float() / LARGEST_CODE)
    # Some GPUs' powers of two are off by a float32's last bit, which the way through bfloat16 takes away.
    scale = torch.ldexp((significand * 2**_SCALE_BITS).round(), exponent - _SCALE_BITS).bfloat16().float()
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def has_exact_products(scale_OG: Tensor) -> bool:
    """Say whether every code times its scale is a value of bfloat16."""
    return torch.equal(scale_OG * LARGEST_CODE, (scale_OG * LARGEST_CODE).bfloat16().float())


def quantize_weight(weight_OI: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Round a weight to the nearest of 15 values a group, symmetric about zero, which stays exact.

    Gives the codes (int8, [O, I], -7 to 7) and the scales (float32, [O, G]). Every weight is off by at most half its
    group's scale, which is about the group's largest magnitude divided by 7. A group of zeros gets the scale 1.
    """
    weight_OGS = weight_OI.float().reshape(len(weight_OI), -1, group_size)
    scale_OG = choose_group_scale(weight_OGS.abs().amax(dim=-1))
    codes_OGS = (weight_OGS / scale_OG.unsqueeze(-1)).round().clamp(-LARGEST_CODE, LARGEST_CODE)
    return codes_OGS.to(torch.int8).flatten(1), scale_OG


def pack_codes(codes_OI: Tensor) -> Tensor:
    """Put eight codes into an int32, the first lowest: [O, I / 8]."""
    shift_C = _BITS * torch.arange(_CODES_PER_WORD, device=codes_OI.device)
    nibbles_OJC = (codes_OI.long() + CODE_OFFSET).reshape(len(codes_OI), -1, _CODES_PER_WORD)
    words_OJ = (nibbles_OJC << shift_C).sum(dim=-1)
    # The highest nibble reaches the sign bit: above 2**31 the same bits are a negative int32.
    return torch.where(words_OJ >= 2**31, words_OJ - 2**32, words_OJ).to(torch.int32)


def unpack_codes(words_OJ: Tensor) -> Tensor:
    """Undo ``pack_codes``."""
    # By bytes, of two codes each, the first one lower: with whole words it took ten times as long.
    bytes_OK = words_OJ.contiguous().view(torch.uint8)
    codes_OK2 = torch.stack([bytes_OK & (2**_BITS - 1), bytes_OK >> _BITS], dim=-1)
    return codes_OK2.flatten(1).view(torch.int8) - CODE_OFFSET


class Int4Linear(nn.Module):
    """Takes the place of ``nn.Linear``; its state is what lies on disk, and is unpacked for each product."""

    def __init__(self, in_features: int, out_features: int, *, group_size: int, bias: bool) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.group_size = group_size
        num_words, num_groups = in_features // _CODES_PER_WORD, in_features // group_size
        self.weight_packed = nn.Parameter(torch.zeros(out_features, num_words, dtype=torch.int32), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.ones(out_features, num_groups), requires_grad=False)
        self.weight_shape = nn.Parameter(torch.tensor([out_features, in_features]), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None

    @property
    def codes(self) -> Tensor:
        """The codes, -8 to 7: int8, [O, I]."""
        return unpack_codes(self.weight_packed)

    @property
    def weight(self) -> Tensor:
        """The weight that the codes stand for, in float32: [O, I]."""
        weight_OGS = self.codes.view(self.out_features, -1, self.group_size) * self.weight_scale.unsqueeze(-1)
        return weight_OGS.flatten(1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Multiply ``[..., I]`` to ``[..., O]`` in the dtype of the input."""
        return functional.linear(hidden, self.weight.to(hidden.dtype), self.bias)

    def extra_repr(self) -> str:
        """Say the shape, as ``nn.Linear`` does."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, group_size={self.group_size}, "
            f"bias={self.bias is not None}"
        )
