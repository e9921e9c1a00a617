"""Leaving features out of a linear layer, in place.

Axes: O output features, I input features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


def keep_outputs(linear: nn.Linear, kept_O: Tensor) -> None:
    """Leave out every other output feature."""
    linear.weight = _replace(linear.weight, linear.weight.detach()[kept_O])
    if linear.bias is not None:
        linear.bias = _replace(linear.bias, linear.bias.detach()[kept_O])
    linear.out_features = len(kept_O)


def keep_inputs(linear: nn.Linear, kept_I: Tensor) -> None:
    """Leave out every other input feature."""
    linear.weight = _replace(linear.weight, linear.weight.detach()[:, kept_I])
    linear.in_features = len(kept_I)


def _replace(old: Tensor, tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=old.requires_grad)
