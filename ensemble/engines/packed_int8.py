"""Linear layers with 8-bit weights, multiplied without being unpacked where that is faster on a CPU.

Axes: O output features, I input features, R rows (tokens of all sequences).

Measured with torch 2.13 on one core with AVX-512 (milliseconds for one 1536 x 576 layer; weights of many layers, far
larger than the processor's cache; beside it a float layer as PackedLinear multiplies it):

==== ============= ======================== ======================= ==============
R    8-bit product unpacked, then bfloat16  unpacked, then float32  float bfloat16
==== ============= ======================== ======================= ==============
1    0.050         0.15                     0.15                    0.057
4    0.057         0.16                     0.16                    0.066
16   0.20          0.20                     0.25                    0.11
64   0.76          0.37                     0.54                    0.28
256  3.0           1.1                      2.0                     0.93
==== ============= ======================== ======================= ==============
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ensemble.engines.onednn_product import multiply

if TYPE_CHECKING:
    from ensemble.checkpoints.int8_linear import Int8Linear

PACKED_MAX_ROWS = 16
_ALIGNMENT_BYTES = 64
_INPUT_STEP = 16
"""torch's kernel reads 16 input features at a time from aligned addresses, and checks neither.

With other shapes it gives wrong products, from other addresses it crashes the process (torch 2.13 with AVX-512)."""


class PackedInt8Linear(nn.Module):
    """Takes the place of an ``Int8Linear`` on a CPU, with the same codes.

    With few rows and many, the inputs and their product with the codes are rounded to bfloat16, by at most 2**-8 of
    each, which is well below the weights' own rounding, and nothing else is: what is multiplied beside a row changes
    the order of its sums at most, and nothing at all among few rows. Scales and bias are applied in float32.
    """

    def __init__(self, linear: Int8Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._dtype = dtype
        # No parameter, as in the other packed layers: what counts as a model's floats must not be asked of this one.
        self._codes_OI = _align(linear.weight.detach())
        self._scale_O = linear.weight_scale.detach().flatten()
        self._bias_O = None if linear.bias is None else linear.bias.detach()
        self._one_O = _ones(self.out_features)

    @property
    def weight(self) -> Tensor:
        """The weight that the codes stand for, in float32: [O, I]."""
        return self._codes_OI * self._scale_O[:, None]

    def forward(self, hidden: Tensor) -> Tensor:
        """Multiply ``[..., I]`` to ``[..., O]`` in the dtype of the input."""
        rows_RI = hidden.reshape(-1, self.in_features).to(torch.bfloat16)
        product_RO: Tensor
        if len(rows_RI) <= PACKED_MAX_ROWS:
            # Private in torch, but it has no public spelling; torchao and gpt-fast call it by the same name.
            product_RO = torch.ops.aten._weight_int8pack_mm(_align(rows_RI), self._codes_OI, self._one_O)  # noqa: SLF001
        else:
            product_RO = multiply(rows_RI.to(self._dtype), self._codes_OI.to(self._dtype)).to(torch.bfloat16)
        # Scales are float32, so the result is until the end.
        output_RO = product_RO * self._scale_O
        if self._bias_O is not None:
            output_RO = output_RO + self._bias_O
        return output_RO.to(hidden.dtype).view(*hidden.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Say the shape, as ``nn.Linear`` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype={self._dtype}"


def can_pack_int8(linear: Int8Linear) -> bool:
    """Say whether the kernel takes a layer's shape."""
    return linear.in_features % _INPUT_STEP == 0


@cache
def _ones(num_out: int) -> Tensor:
    """Give scales that change nothing: the kernel takes bfloat16 only, which would shift whole rows."""
    return torch.ones(num_out, dtype=torch.bfloat16)


def _align(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT_BYTES else tensor
