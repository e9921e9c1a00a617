"""Changing a layer's weights column by column, the later ones making up for what the earlier ones lost.

The rule is that of the optimal brain surgeon (Hassibi and Stork 1993), in the order and blocks of GPTQ (Frantar et al.
2022, arXiv:2210.17323) and SparseGPT (Frantar and Alistarh 2023, arXiv:2301.00774): the output's squared error on
calibration inputs X grows by ``error ** 2 / [H^-1]_ii`` for a column, where ``H = X^T X``, and is least when the
columns still to come take ``error / [H^-1]_ii`` times the row of ``H^-1``. The upper Cholesky factor of ``H^-1`` holds
all the inverses that are needed on the way.

Axes: O output features, I input features, S columns of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 0.01
"""Of the mean diagonal, which is added to the diagonal: the value of both papers."""
ChangeColumn = Callable[[int, "Tensor"], "Tensor"]
"""From a column's number within its block, and its weights as they are now, to those that it will have."""
PlanBlock = Callable[["Tensor", "Tensor"], ChangeColumn]
"""From a block as it is when its turn comes ([O, S]), and the factor's diagonal there ([S]), to the rule for it."""


def factorise_inverse(gram_II: Tensor, damping: float) -> Tensor:
    """Give the upper Cholesky factor of the damped matrix's inverse, in float32.

    Inputs that are always zero are left to the damping.
    """
    damped_II = gram_II.double()
    mean = damped_II.diagonal().mean()
    damped_II.diagonal().add_(damping * mean if mean > 0 else 1.0)
    inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(damped_II))
    factor_II: Tensor = torch.linalg.cholesky(inverse_II, upper=True)
    return factor_II.float()


def change_columns(weight_OI: Tensor, factor_II: Tensor, block_size: int, plan_block: PlanBlock) -> Tensor:
    """Give the weight that ``plan_block`` leads to, in float32."""
    weight_OI = weight_OI.detach().float().clone()
    for start in range(0, weight_OI.shape[1], block_size):
        block_OS = weight_OI[:, start : start + block_size]
        factor_SS = factor_II[start : start + block_size, start : start + block_size]
        change_column = plan_block(block_OS, factor_SS.diagonal())
        error_OS = torch.zeros_like(block_OS)
        for column in range(block_OS.shape[1]):
            changed_O = change_column(column, block_OS[:, column])
            error_OS[:, column] = (block_OS[:, column] - changed_O) / factor_SS[column, column]
            block_OS[:, column:] -= error_OS[:, column, None] * factor_SS[column, column:]
            # Exactly, and not only up to rounding.
            block_OS[:, column] = changed_O
        weight_OI[:, start + block_size :] -= error_OS @ factor_II[start : start + block_size, start + block_size :]
    return weight_OI
