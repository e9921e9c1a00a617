"""A linear layer whose weight and inputs both have 8 bits: whole numbers, or floats of 4 and 3 bits (float8 e4m3fn).

Axes: O output features, I input features, R rows (tokens of all sequences).

Measured with torch 2.13 on one core with AVX-512 VNNI (milliseconds for one 1536 x 576 layer, weight in the cache):

==== ======== ============= ==================
R    float32  int8 product  unpack and float32
==== ======== ============= ==================
1    0.14     0.010         0.18
16   0.76     0.13          0.84
64   3.0      0.23          2.5
256  9.8      1.0           10
==== ======== ============= ==================
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_BY_DTYPE = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The largest code of each kind; -128 is left out, so that codes are symmetric."""
_SMALLEST_SCALE = 1e-30
"""Of a row of zeros, whose codes are zeros by any scale."""


def quantize_float8(weight_OI: Tensor, *, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Round a weight to float8 (e4m3fn), one scale for each output feature, or one for all.

    Gives the codes ([O, I]) and the scales (float32, [O, 1] or [1]). Every weight is off by at most a sixteenth of
    itself, or by 2**-10 of its scale where that is more. A row of zeros gets the scale 1.
    """
    weight_OI = weight_OI.float()
    largest = weight_OI.abs().amax(dim=1, keepdim=True) if per_channel else weight_OI.abs().amax().view(1)
    scale = largest / LARGEST_BY_DTYPE[torch.float8_e4m3fn]
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return _round_to(weight_OI / scale, torch.float8_e4m3fn), scale


def round_rows(rows_RI: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round inputs to 8 bits, a scale a row (float32, [R, 1]), as vLLM does with dynamic activations."""
    scaled_RI, scale_R1 = scale_rows(rows_RI, dtype)
    return _round_to(scaled_RI, dtype), scale_R1


def scale_rows(rows_RI: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Give inputs in units of their rows' scales, not yet rounded (float32), and the scales."""
    rows_RI = rows_RI.float()
    # Few operations on purpose: for one row each costs as much as a tenth of the product.
    scale_R1 = rows_RI.abs().amax(dim=1, keepdim=True).div_(LARGEST_BY_DTYPE[dtype]).clamp_min_(_SMALLEST_SCALE)
    return rows_RI / scale_R1, scale_R1


def _round_to(scaled: Tensor, dtype: torch.dtype) -> Tensor:
    """Round in place what is no larger than the largest code, but for a last digit."""
    if dtype == torch.int8:
        return scaled.round_().to(dtype)
    limit = LARGEST_BY_DTYPE[dtype]
    # Converting rounds by itself; what lies beyond the range is NaN in some versions of torch.
    return scaled.clamp_(-limit, limit).to(dtype)


@cache
def has_int8_products() -> bool:
    """Say whether this CPU adds int8 products in 32 bits; older instructions may saturate in between."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_vnni") or capabilities.get("avx_vnni"))


class W8A8Linear(nn.Module):
    """Takes the place of ``nn.Linear``; its state is what lies on disk, and it rounds its inputs as it gets them.

    Whole numbers are multiplied as such where the CPU can, which is exact; elsewhere, as float8 always, codes are
    turned into floats, which is no faster than a float layer.
    """

    def __init__(
        self, in_features: int, out_features: int, *, dtype: torch.dtype, per_channel: bool, bias: bool
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.zeros(out_features, in_features, dtype=dtype), requires_grad=False)
        shape = (out_features, 1) if per_channel else (1,)
        self.weight_scale = nn.Parameter(torch.ones(shape), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        """Multiply ``[..., I]`` to ``[..., O]`` in the dtype of the input."""
        codes_RI, scale_R1 = round_rows(hidden.reshape(-1, self.in_features), self.weight.dtype)
        # Scales are float32, so the result is until the end.
        output_RO = (self._multiply(codes_RI) * scale_R1).mul_(self.weight_scale.view(-1))
        if self.bias is not None:
            output_RO += self.bias
        return output_RO.to(hidden.dtype).view(*hidden.shape[:-1], self.out_features)

    def _multiply(self, codes_RI: Tensor) -> Tensor:
        if self.weight.dtype == torch.int8 and self.weight.device.type == "cpu" and has_int8_products():
            # Private in torch, but it has no public spelling; torchao calls it by the same name.
            product_RO: Tensor = torch._int_mm(codes_RI, self.weight.t())  # noqa: SLF001
            return product_RO
        return functional.linear(codes_RI.float(), self.weight.float())

    def extra_repr(self) -> str:
        """Say the shape, as ``nn.Linear`` does."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, dtype={self.weight.dtype}, "
            f"bias={self.bias is not None}"
        )
