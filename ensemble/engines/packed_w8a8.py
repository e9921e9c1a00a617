"""Linear layers with 8-bit weights and inputs, laid out once for oneDNN's product of whole numbers on a CPU.

Axes: O output features, I input features, R rows (tokens of all sequences).

Measured with torch 2.13 on one core with AVX-512 VNNI (milliseconds of CPU for one 1536 x 576 layer, rounding of inputs
included; weights of many layers, far larger than the processor's cache; beside it ``W8A8Linear``, which lays its codes
out anew each time, and float layers as PackedLinear multiplies them; the machine was busy, so the ratios count):

==== ====== ============ ============== =============
R    packed not packed   float bfloat16 float float32
==== ====== ============ ============== =============
1    0.078  0.079        0.081          0.145
4    0.078  0.132        0.087          0.159
16   0.125  0.173        0.144          0.250
64   0.287  0.331        0.330          0.601
256  0.765  0.817        1.155          2.028
==== ====== ============ ============== =============
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ensemble.checkpoints.w8a8_linear import has_int8_products, scale_rows

if TYPE_CHECKING:
    from ensemble.checkpoints.w8a8_linear import W8A8Linear

_OFFSET = 128
"""oneDNN is fast with inputs of 0 to 255 alone, and takes what is added to them off its sums again."""


class PackedW8A8Linear(nn.Module):
    """Takes the place of a ``W8A8Linear`` of whole numbers on a CPU, and gives the same, up to float32's rounding."""

    def __init__(self, linear: W8A8Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        # No parameters: torch can neither move nor save this layout. Private in torch, but there is no public spelling.
        self._packed_IO = torch.ops.onednn.qlinear_prepack(linear.weight.detach(), None)
        self._scale_O = linear.weight_scale.detach().expand(linear.out_features, 1).flatten().contiguous()
        self._bias_O = None if linear.bias is None else linear.bias.detach()
        self._zero_O = _zeros(self.out_features)

    @property
    def weight(self) -> Tensor:
        """The weight that the codes stand for, in float32: [O, I]."""
        codes_IO: Tensor = self._packed_IO.to_dense()
        return codes_IO.T * self._scale_O[:, None]

    def forward(self, hidden: Tensor) -> Tensor:
        """Multiply ``[..., I]`` to ``[..., O]`` in the dtype of the input."""
        scaled_RI, scale_R1 = scale_rows(hidden.reshape(-1, self.in_features), torch.int8)
        product_RO = torch.ops.onednn.qlinear_pointwise(
            scaled_RI.round_().add_(_OFFSET).to(torch.uint8),
            1.0,
            _OFFSET,
            self._packed_IO,
            self._scale_O,
            self._zero_O,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        output_RO: Tensor = product_RO.mul_(scale_R1)
        if self._bias_O is not None:
            output_RO += self._bias_O
        return output_RO.to(hidden.dtype).view(*hidden.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Say the shape, as ``nn.Linear`` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def can_pack_w8a8(linear: W8A8Linear) -> bool:
    """Say whether the CPU multiplies a layer's codes as whole numbers."""
    return linear.weight.dtype == torch.int8 and has_int8_products()


@cache
def _zeros(num_out: int) -> Tensor:
    return torch.zeros(num_out, dtype=torch.int32)
