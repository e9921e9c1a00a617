"""A linear layer whose weight is kept in 8 bits.

Axes: O output features, I input features, R rows (tokens of all sequences).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_CODE = 127


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

    The codes are turned into numbers of the input's dtype for each product. Scales and bias are applied in float32.
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
        product = functional.linear(hidden, self.weight.to(hidden.dtype))
        # Scales are float32, so the result is until the end.
        output = product * self.weight_scale.view(-1)
        if self.bias is not None:
            output = output + self.bias
        return output.to(hidden.dtype)

    def extra_repr(self) -> str:
        """Say the shape, as ``nn.Linear`` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
