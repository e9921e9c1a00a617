"""Setting the smallest weights to zero, wherever they are in a layer.

Axes: O output features (or vocabulary), I input features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ensemble.checkpoints.layer_names import is_ignored
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ensemble.compression.recipe import PruneWeights


def find_layers_to_prune(model: PreTrainedModel, step: PruneWeights) -> list[str]:
    """List the layers that the step prunes.

    Raises:
        ConfigError: there is none.
    """
    kinds = tuple({"Linear": nn.Linear, "Embedding": nn.Embedding}[target] for target in step.targets)
    names = [
        name for name, layer in model.named_modules() if isinstance(layer, kinds) and not is_ignored(name, step.ignore)
    ]
    if not names:
        raise ConfigError("prune_weights.ignore", "no layer is left to prune", "ignore fewer, or name more targets")
    return names


@torch.inference_mode()
def prune_weights(model: PreTrainedModel, step: PruneWeights, *, on_phase: OnPhase = ignore_phase) -> dict[str, Any]:
    """Prune every layer to the step's sparsity, in place; give their number and the share of zeros over all of them."""
    names = find_layers_to_prune(model, step)
    num_zeros = num_weights = 0
    for done, name in enumerate(names):
        on_phase("prune weights", done / len(names))
        weight_OI = cast("nn.Linear | nn.Embedding", model.get_submodule(name)).weight
        weight_OI.copy_(prune_smallest(weight_OI, step.sparsity))
        num_zeros += int((weight_OI == 0).sum())
        num_weights += weight_OI.numel()
    return {"num_layers": len(names), "zero_share": num_zeros / num_weights}


def prune_smallest(weight_OI: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Give a copy in which the ``round(sparsity * size)`` smallest magnitudes are zero, earlier ones on a tie."""
    num_gone = round(sparsity * weight_OI.numel())
    # A stable sort, so that the same weights always give the same zeros.
    order = weight_OI.abs().flatten().argsort(stable=True)
    pruned = weight_OI.flatten().clone()
    pruned[order[:num_gone]] = 0
    return pruned.view_as(weight_OI)
