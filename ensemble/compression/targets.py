"""Which linear layers a step is about, and how far a rounded weight is from what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ensemble.checkpoints.layer_names import is_ignored
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def find_targets(model: PreTrainedModel, step: str, ignore: tuple[str, ...]) -> list[str]:
    """List the linear layers that a step quantises, in the model's order.

    Raises:
        ConfigError: there is none, or one shares its weight with the embeddings.
    """
    targets = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and not is_ignored(name, ignore)
    ]
    if not targets:
        raise ConfigError(f"{step}.ignore", "no linear layer is left to quantise", "ignore fewer")
    tied = [name for name in targets if f"{name}.weight" in model.all_tied_weights_keys]
    if tied:
        raise ConfigError(
            f"{step}.ignore", f"{tied[0]} shares its weight with the embeddings", f"add {tied[0]} to ignore"
        )
    return targets


def find_float_layers(model: PreTrainedModel) -> tuple[str, ...]:
    """Name the linear layers that are left float, in full, because other readers of the format know no short names."""
    return tuple(name for name, layer in model.named_modules() if isinstance(layer, nn.Linear))


def measure_error(weight_OI: Tensor, rounded_OI: Tensor) -> float:
    """Give the root mean square of the rounding as a share of the weight's own."""
    size = weight_OI.float().norm().item()
    return (rounded_OI - weight_OI.float()).norm().item() / size if size else 0.0
