"""Linear layers with 4-bit weights, laid out once for torch's product on a CPU.

Axes: O output features, I input features, G groups of S input features, R rows (tokens of all sequences), P panels of
N output features; a byte holds two of those (M is half of N).

Measured with torch 2.13 on one core with AVX-512 (milliseconds for one 1536 x 576 layer; weights of many layers, far
larger than the processor's cache; beside it a float layer as PackedLinear multiplies it):

==== ============= ======================== ======================= ==============
R    4-bit product unpacked, then bfloat16  unpacked, then float32  float bfloat16
==== ============= ======================== ======================= ==============
1    0.027         0.41                     0.34                    0.057
4    0.044         0.42                     0.35                    0.066
16   0.17          0.46                     0.44                    0.11
64   0.67          0.63                     0.71                    0.28
256  2.7           1.4                      2.3                     0.93
==== ============= ======================== ======================= ==============
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from ensemble.checkpoints.int4_linear import CODE_OFFSET, LARGEST_CODE, Int4Linear, has_exact_products
from ensemble.engines.onednn_product import multiply

PACKED_MAX_ROWS = 64
_PANEL_WIDTHS = (64, 32)
"""How many output features lie side by side, with AVX-512 and with AVX2."""
_NIBBLE = 15


class PackedInt4Linear(nn.Module):
    """Takes the place of an ``Int4Linear`` on a CPU; as large as that one, which can be let go.

    With few rows and many, inputs, scales and output are rounded to bfloat16, by at most 2**-8 of each, and nothing
    else is: what is multiplied beside a row changes the order of its sums at most, and nothing at all among few rows.
    So many rows are multiplied in bfloat16 only where the unpacked weight has its values, and else in float32.
    """

    def __init__(self, linear: Int4Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.group_size = linear.group_size
        self._dtype = dtype if has_exact_products(linear.weight_scale) else torch.float32
        self._panel_width = find_panel_width()
        # No parameters: nobody moves or saves this layout, which is this processor's.
        self._packed = _pack(linear.codes)
        scale_GO = linear.weight_scale.detach().t()
        self._scale_and_zero_GO2 = torch.stack([scale_GO, torch.zeros_like(scale_GO)], dim=-1).bfloat16().contiguous()
        self._bias = None if linear.bias is None else linear.bias.detach()

    @property
    def weight(self) -> Tensor:
        """The weight that the codes stand for, in the dtype for many rows: [O, I]."""
        return self._unpack().t()

    def forward(self, hidden: Tensor) -> Tensor:
        """Multiply ``[..., I]`` to ``[..., O]`` in the dtype of the input."""
        rows_RI = hidden.reshape(-1, self.in_features).to(torch.bfloat16)
        product_RO: Tensor
        if len(rows_RI) <= PACKED_MAX_ROWS:
            # Private in torch, but it has no public spelling; torchao and vLLM call it by the same name.
            product_RO = torch.ops.aten._weight_int4pack_mm_for_cpu(  # noqa: SLF001
                rows_RI, self._packed, self.group_size, self._scale_and_zero_GO2
            )
        else:
            product_RO = multiply(rows_RI.to(self._dtype), self._unpack().t()).to(torch.bfloat16)
        output_RO = product_RO.to(hidden.dtype)
        if self._bias is not None:
            output_RO = output_RO + self._bias.to(hidden.dtype)
        return output_RO.view(*hidden.shape[:-1], self.out_features)

    def _unpack(self) -> Tensor:
        """Give the weight transposed, [I, O]: that is the faster way out of the panels."""
        codes_PIN = _unpack_codes(self._packed, self._panel_width)
        codes_PGSN = codes_PIN.view(len(codes_PIN), -1, self.group_size, self._panel_width)
        weight_GSPN = codes_PGSN.permute(1, 2, 0, 3).to(self._dtype, memory_format=torch.contiguous_format)
        # Side by side: with the zeros in between it takes three times as long.
        scale_GO = self._scale_and_zero_GO2[..., 0].contiguous().to(self._dtype)
        weight_GSPN *= scale_GO.view(len(scale_GO), 1, len(codes_PIN), -1)
        return weight_GSPN.view(self.in_features, self.out_features)

    def extra_repr(self) -> str:
        """Say the shape, as ``nn.Linear`` does."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, group_size={self.group_size}, "
            f"dtype={self._dtype}"
        )


def can_pack_int4(linear: Int4Linear) -> bool:
    """Say whether a layer's output features fill whole panels of a layout that is known here."""
    width = find_panel_width()
    return bool(width) and linear.out_features % width == 0


@cache
def find_panel_width() -> int:
    """Find out how this torch lays codes out on this processor, by looking; 0 if in no way that is known here."""
    for width in _PANEL_WIDTHS:
        codes_OI = torch.arange(4 * width * 32).view(-1, 32).remainder(13).sub(LARGEST_CODE - 1).to(torch.int8)
        try:
            packed = _pack(codes_OI)
        except (AttributeError, RuntimeError):  # This torch has no such product.
            return 0
        if torch.equal(_unpack_codes(packed, width).transpose(1, 2).flatten(0, 1), codes_OI):
            return width
    return 0


def _pack(codes_OI: Tensor) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(  # noqa: SLF001
        codes_OI.to(torch.int32) + CODE_OFFSET,
        1,  # Tiles are another device's affair.
    )
    return packed


def _unpack_codes(packed: Tensor, width: int) -> Tensor:
    """Give the codes in panels, [P, I, N]: a byte has those of two output features that lie half a panel apart."""
    bytes_PIM = packed.view(-1, packed.shape[1] * 2, width // 2)
    codes_PIN = torch.cat([bytes_PIM & _NIBBLE, bytes_PIM >> 4], dim=-1)
    return codes_PIN.view(torch.int8) - CODE_OFFSET
