"""Which linear layers a step is about, putting rounded ones in their place, and how far these are from what was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import nn

from ensemble.checkpoints.layer_names import is_ignored
from ensemble.compression.step import HEADS
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from ensemble.checkpoints.progress import OnPhase


def find_targets(model: PreTrainedModel, step: str, ignore: tuple[str, ...]) -> list[str]:
    """List the linear layers that a step quantises, in the model's order.

    Raises:
        ConfigError: there is none, or one shares its weight with the embeddings.
    """
    targets = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and not is_ignored(name, ignore)
    ]
    if not targets:
        check_has_layers(model, step)
        raise ConfigError(f"{step}.ignore", "no linear layer is left to quantise", "ignore fewer")
    tied = [name for name in targets if f"{name}.weight" in model.all_tied_weights_keys]
    if tied:
        raise ConfigError(
            f"{step}.ignore", f"{tied[0]} shares its weight with the embeddings", f"add {tied[0]} to ignore"
        )
    return targets


def check_has_layers(model: PreTrainedModel, step: str) -> None:
    """See that the model has linear layers at all, beside its head; some types have others in their place.

    Raises:
        ConfigError: it has none.
    """
    if all(is_ignored(name, HEADS) for name in find_float_layers(model)):
        raise ConfigError(step, f"a {type(model).__name__} has no linear layers but its head", "take another model")


def find_float_layers(model: PreTrainedModel) -> tuple[str, ...]:
    """Name the linear layers that are left float, in full, because other readers of the format know no short names."""
    return tuple(name for name, layer in model.named_modules() if isinstance(layer, nn.Linear))


def replace_layers(
    model: PreTrainedModel,
    names: Sequence[str],
    round_layer: Callable[[str, nn.Linear], tuple[nn.Module, float]],
    *,
    on_phase: OnPhase,
) -> dict[str, Any]:
    """Put what ``round_layer`` makes in the place of each layer; it also gives the relative error of the weight.

    Tells the number of layers, and the one with the largest error.
    """
    worst_name, worst_error = "", -1.0
    for done, name in enumerate(names):
        on_phase("quantise", done / len(names))
        linear = cast("nn.Linear", model.get_submodule(name))
        rounded, error = round_layer(name, linear)
        if error > worst_error:
            worst_name, worst_error = name, error
        model.set_submodule(name, rounded)
    return {"num_layers": len(names), "worst_layer": worst_name, "worst_relative_error": worst_error}


def measure_error(weight_OI: Tensor, rounded_OI: Tensor) -> float:
    """Give the root mean square of the rounding as a share of the weight's own."""
    size = weight_OI.float().norm().item()
    return (rounded_OI - weight_OI.float()).norm().item() / size if size else 0.0
