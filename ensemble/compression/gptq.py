"""Rounding a weight to 4 bits by GPTQ (Frantar et al. 2022, arXiv:2210.17323), group by group.

Axes: O output features, I input features, G groups of S input features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ensemble.checkpoints.int4_linear import LARGEST_CODE, choose_group_scale
from ensemble.compression.optimal_brain import ChangeColumn, change_columns

if TYPE_CHECKING:
    from torch import Tensor


def quantize_by_gptq(weight_OI: Tensor, factor_II: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Round columns in their order, with the factor of ``factorise_inverse``.

    Gives codes (int8, [O, I], -7 to 7) and scales (float32, [O, G]) as ``quantize_weight`` does, and the weight that
    they stand for. A group's scale fits its weights as they are when their turn comes.
    """
    scales: list[Tensor] = []

    def plan_group(group_OS: Tensor, _factor_S: Tensor) -> ChangeColumn:
        scale_O = choose_group_scale(group_OS.abs().amax(dim=1))
        scales.append(scale_O)
        return lambda _column, weight_O: (weight_O / scale_O).round().clamp(-LARGEST_CODE, LARGEST_CODE) * scale_O

    rounded_OI = change_columns(weight_OI, factor_II, group_size, plan_group)
    scale_OG = torch.stack(scales, dim=1)
    codes_OGS = rounded_OI.view(len(rounded_OI), -1, group_size) / scale_OG.unsqueeze(-1)
    return codes_OGS.round().to(torch.int8).flatten(1), scale_OG, rounded_OI
