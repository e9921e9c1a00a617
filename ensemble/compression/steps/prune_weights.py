"""Setting the smallest weights to zero, wherever they are in a layer.

Axes: O output features (or vocabulary), I input features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch
from pydantic import Field
from torch import nn

from ensemble.checkpoints.layer_names import is_ignored
from ensemble.compression.step import HEADS, LayerName, Step, StepContext, StepResult
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PruneWeights(Step):
    """Set the weights of smallest magnitude to zero, layer by layer (Han et al. 2015, arXiv:1506.02626)."""

    type: Literal["prune_weights"] = "prune_weights"
    sparsity: float = Field(default=0.5, gt=0.0, lt=1.0, description="share of each layer's weights that become zero")
    targets: tuple[Literal["Linear", "Embedding"], ...] = Field(
        default=("Linear",), min_length=1, description="kinds of layers whose weights are pruned"
    )
    ignore: tuple[LayerName, ...] = Field(
        default=HEADS, description="layers that stay whole, by full name, last part, or re:pattern"
    )

    def check(self, empty: PreTrainedModel) -> None:
        """See that there is something to prune."""
        self.find_layers(empty)

    def find_layers(self, model: PreTrainedModel) -> list[str]:
        """List the layers that are pruned.

        Raises:
            ConfigError: there is none.
        """
        kinds = tuple({"Linear": nn.Linear, "Embedding": nn.Embedding}[target] for target in self.targets)
        names = [
            name
            for name, layer in model.named_modules()
            if isinstance(layer, kinds) and not is_ignored(name, self.ignore)
        ]
        if not names:
            raise ConfigError(f"{self.type}.ignore", "no layer is left to prune", "ignore fewer, or name more targets")
        return names

    @torch.inference_mode()
    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Prune every layer to the sparsity; tell their number and the share of zeros over all of them."""
        names = self.find_layers(model)
        num_zeros = num_weights = 0
        for done, name in enumerate(names):
            context.on_phase("prune weights", done / len(names))
            weight_OI = cast("nn.Linear | nn.Embedding", model.get_submodule(name)).weight
            weight_OI.copy_(prune_smallest(weight_OI, self.sparsity))
            num_zeros += int((weight_OI == 0).sum())
            num_weights += weight_OI.numel()
        return StepResult(findings={"num_layers": len(names), "zero_share": num_zeros / num_weights})


def prune_smallest(weight_OI: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Give a copy in which the ``round(sparsity * size)`` smallest magnitudes are zero, earlier ones on a tie."""
    num_gone = round(sparsity * weight_OI.numel())
    # A stable sort, so that the same weights always give the same zeros.
    order = weight_OI.abs().flatten().argsort(stable=True)
    pruned = weight_OI.flatten().clone()
    pruned[order[:num_gone]] = 0
    return pruned.view_as(weight_OI)
