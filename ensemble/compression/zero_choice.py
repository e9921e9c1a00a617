"""Which weights become zero, by a score of each: the lowest ones, the earlier of equals.

A mask is True where a weight goes.

Axes: O output features, I input features, R rows, K a row's length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Pattern = Literal["2:4", "4:8"]
"""How many of how many neighbouring input features go."""
PATTERN_SPARSITY = 0.5
"""Of every pattern."""


def read_pattern(pattern: Pattern) -> tuple[int, int]:
    """Give how many go, and of how many."""
    num_gone, _, size = pattern.partition(":")
    return int(num_gone), int(size)


def choose_in_layer(score_OI: Tensor, sparsity: float) -> Tensor:
    """Choose ``round(sparsity * size)`` weights, wherever they are."""
    return _choose_lowest(score_OI.reshape(1, -1), round(sparsity * score_OI.numel())).view_as(score_OI)


def choose_in_rows(score_OI: Tensor, sparsity: float) -> Tensor:
    """Choose ``round(sparsity * I)`` weights of each output feature."""
    return _choose_lowest(score_OI, round(sparsity * score_OI.shape[1]))


def choose_in_pattern(score_OI: Tensor, pattern: Pattern) -> Tensor:
    """Choose as many of each output feature's neighbouring inputs as the pattern says; its size divides I."""
    num_gone, size = read_pattern(pattern)
    return _choose_lowest(score_OI.reshape(-1, size), num_gone).view_as(score_OI)


def count_channels_gone(num_channels: int, sparsity: float) -> int:
    """Say how many output channels of so many go."""
    return round(sparsity * num_channels)


def choose_channels(weight_OI: Tensor, sparsity: float) -> Tensor:
    """Choose whole output channels (rows): those whose largest magnitude is lowest."""
    score_O = weight_OI.abs().amax(dim=1)
    gone_O = _choose_lowest(score_O[None], count_channels_gone(len(score_O), sparsity))[0]
    return gone_O[:, None].expand_as(weight_OI)


def _choose_lowest(score_RK: Tensor, num_gone: int) -> Tensor:
    # A stable sort, so that the same scores always give the same zeros.
    order_RK = score_RK.argsort(dim=1, stable=True)
    return torch.zeros_like(score_RK, dtype=torch.bool).scatter_(1, order_RK[:, :num_gone], value=True)
