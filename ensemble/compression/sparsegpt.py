"""Pruning a weight by SparseGPT (Frantar and Alistarh 2023, arXiv:2301.00774): what stays makes up for what goes.

Axes: O output features, I input features, S columns of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensemble.compression.optimal_brain import ChangeColumn, change_columns
from ensemble.compression.zero_choice import Pattern, choose_in_layer, choose_in_pattern, read_pattern

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK_COLUMNS = 128
"""Of which the share goes that is asked for; the paper's value."""


def prune_by_sparsegpt(weight_OI: Tensor, factor_II: Tensor, sparsity: float, pattern: Pattern | None) -> Tensor:
    """Give the pruned weight, with the factor of ``factorise_inverse``.

    A weight's score is what its loss adds to the output's squared error, ``weight ** 2 / [H^-1]_ii``, when its block's
    turn comes; a block is 128 input features, or as many as the pattern has.
    """

    def plan_block(block_OS: Tensor, factor_S: Tensor) -> ChangeColumn:
        score_OS = (block_OS / factor_S).square()
        gone_OS = choose_in_pattern(score_OS, pattern) if pattern else choose_in_layer(score_OS, sparsity)
        return lambda column, weight_O: weight_O.masked_fill(gone_OS[:, column], 0.0)

    block_size = read_pattern(pattern)[1] if pattern else _BLOCK_COLUMNS
    return change_columns(weight_OI, factor_II, block_size, plan_block)
