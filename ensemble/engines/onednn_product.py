"""oneDNN's matrix product on a CPU, of a weight in its plain layout or in oneDNN's own."""

from __future__ import annotations

import torch
from torch import Tensor


def multiply(rows_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Multiply as ``torch.nn.functional.linear`` does, which in float32 takes another library and twice the time."""
    # Private in torch, but there is no public spelling.
    product_RO: Tensor = torch.ops.mkldnn._linear_pointwise(rows_RI, weight_OI, bias_O, "none", [], "")  # noqa: SLF001
    return product_RO
