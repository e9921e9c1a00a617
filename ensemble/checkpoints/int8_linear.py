"""A linear layer whose weight is kept in 8 bits and multiplied without being unpacked where that is faster.

Axes: O output features, I input features, R rows (tokens of all sequences).

Measured with torch 2.13 on two AVX-512 cores (milliseconds for one 1536 x 576 layer, weight in the cache; one thread):

==== ============ ============== ================= =====================
R    float32      packed bf16    packed float32    unpack, then float32
==== ============ ============== ================= =====================
1    0.061        0.048          0.71              0.14
4    0.164        0.095          5.1               0.22
16   0.41         0.37           11.9              0.42
64   1.42         1.49           48                1.44
512  13.1         13.8           777               12.9
==== ============ ============== ================= =====================

So few rows go through the packed product in bfloat16 (a weight that is not in the cache gains far more: it is a
quarter of the bytes), many rows are worth unpacking once, and the packed product in float32 never pays.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_CODE = 127
PACKED_MAX_ROWS = 16
_ALIGNMENT_BYTES = 64
_PACKED_STEP = 16
"""torch's kernel reads 16 input features at a time from aligned addresses, and checks neither.

With other shapes it gives wrong products, from other addresses it crashes the process (torch 2.13 with AVX-512)."""


def choose_scale(largest: Tensor, largest_code: int) -> Tensor:
    """Give the scales (float32) by which magnitudes become the largest code; 1 where the magnitude is 0.

    They are values of bfloat16, in which vLLM holds scales: rounded afterwards they would shift all the weights that
    share one, with codes that were rounded for another.
    """
    scale = (largest.float() / largest_code).bfloat16().float()
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def quantize_weight(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to 8 bits, symmetric, one scale for each output feature.

    Gives the codes (int8, [O, I]) and the scales (float32, [O, 1]). Every weight is off by at most half its row's
    scale, which is the row's largest magnitude divided by 127, as a value of bfloat16. A row of zeros gets the scale 1.
    """
    weight_OI = weight_OI.float()
    scale_O1 = choose_scale(weight_OI.abs().amax(dim=1, keepdim=True), LARGEST_CODE)
    codes_OI = (weight_OI / scale_O1).round().clamp(-LARGEST_CODE, LARGEST_CODE).to(torch.int8)
    return codes_OI, scale_O1


class Int8Linear(nn.Module):
    """Takes the place of ``nn.Linear``; codes and scales are as ``quantize_weight`` gives them.

    On a CPU with few rows the activations and the product with the codes are rounded to bfloat16, by at most 2**-8 of
    each, which is well below the weights' own rounding. Scales and bias are applied in float32 by every path.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.zeros(out_features, in_features, dtype=torch.int8), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.ones(out_features, 1), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Multiply ``[..., I]`` to ``[..., O]`` in the dtype of the input."""
        rows_RI = hidden.reshape(-1, self.in_features)
        if len(rows_RI) <= PACKED_MAX_ROWS and self._can_multiply_packed():
            product_RO = self._multiply_packed(rows_RI)
        else:
            product_RO = functional.linear(rows_RI, self.weight.to(hidden.dtype))
        # Scales are float32, so the result is until the end.
        output_RO = product_RO * self.weight_scale.view(-1)
        if self.bias is not None:
            output_RO = output_RO + self.bias
        return output_RO.to(hidden.dtype).view(*hidden.shape[:-1], self.out_features)

    def _can_multiply_packed(self) -> bool:
        return (
            self.weight.device.type == "cpu"
            and self.in_features % _PACKED_STEP == 0
            and self.weight.data_ptr() % _ALIGNMENT_BYTES == 0
            and self.weight.is_contiguous()
        )

    def _multiply_packed(self, rows_RI: Tensor) -> Tensor:
        # The kernel takes scales as bfloat16 only, which would shift whole rows.
        one_O = torch.ones(self.out_features, dtype=torch.bfloat16)
        packed_RI = rows_RI.to(torch.bfloat16).contiguous()
        if packed_RI.data_ptr() % _ALIGNMENT_BYTES:
            packed_RI = packed_RI.clone()
        # Private in torch, but it has no public spelling; torchao and gpt-fast call it by the same name.
        product_RO: Tensor = torch.ops.aten._weight_int8pack_mm(packed_RI, self.weight, one_O)  # noqa: SLF001
        return product_RO

    def extra_repr(self) -> str:
        """Say the shape, as ``nn.Linear`` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
