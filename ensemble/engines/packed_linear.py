"""Linear layers whose weight is laid out once for oneDNN's matrix product on a CPU.

Axes: O output features, I input features, R rows (tokens of all sequences).

Measured with torch 2.13 on one core with AVX-512 (milliseconds of CPU for all products of 10 layers of SmolLM2-135M and
its head; weights far larger than the processor's cache; the machine was busy, so the ratios count):

==== ======= =============== ================
R    plain   packed float32  packed bfloat16
==== ======= =============== ================
1    23      20              10
4    34      16              9
16   50      28              16
32   72      47              26
128  214     159             84
512  850     720             350
==== ======= =============== ================

A layout made for 16 rows was as fast or faster than one made for 1 or for 64, whatever the number of rows fed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ensemble.engines.onednn_product import multiply

_PACKED_FOR_ROWS = 16
_CAPABILITIES = ("AVX2", "AVX512")


class PackedLinear(nn.Module):
    """Takes the place of ``nn.Linear`` on a CPU; the product alone is of the packed dtype, the rest of the input's."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._dtype = dtype
        # No parameter: torch can neither move nor save this layout. Private in torch, but there is no public spelling.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(  # noqa: SLF001
            linear.weight.detach().to(dtype), _PACKED_FOR_ROWS
        )
        self._bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    @property
    def weight(self) -> Tensor:
        """The weight in its plain layout, unpacked each time: for models that look at it."""
        plain: Tensor = self._packed.to_dense()
        return plain

    def forward(self, hidden: Tensor) -> Tensor:
        """Multiply ``[..., I]`` to ``[..., O]`` in the dtype of the input."""
        return multiply(hidden.to(self._dtype), self._packed, self._bias).to(hidden.dtype)

    def extra_repr(self) -> str:
        """Say the shape, as ``nn.Linear`` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype={self._dtype}"


def can_pack() -> bool:
    """Say whether this CPU gains by packing."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and torch.backends.cpu.get_cpu_capability() in _CAPABILITIES


def has_bfloat16_products() -> bool:
    """Say whether this CPU multiplies bfloat16 natively; elsewhere it is slower than float32."""
    # A torch that cannot tell gives nothing, and then float32 it is.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
