"""Movement scores from a short fine-tuning on calibration text, for a model that nobody recorded.

Axes: W windows, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from ensemble.compression.step import StepContext


def train_movement(
    model: PreTrainedModel, names: Sequence[str], context: StepContext, *, num_tokens: int, learning_rate: float
) -> dict[str, Tensor]:
    """Give the movement score of each of the layers' weights; a copy is trained by plain SGD, a window a step.

    Raises:
        ConfigError: the loss ceases to be finite.
    """
    trained = deepcopy(model).requires_grad_(requires_grad=False)
    weight_by_name: dict[str, Any] = {name: trained.get_submodule(name).weight for name in names}
    for weight in weight_by_name.values():
        weight.requires_grad_(requires_grad=True)
    score_by_name = {name: torch.zeros_like(weight) for name, weight in weight_by_name.items()}
    num_windows, window_tokens = context.calibrate_WT.shape
    num_steps = math.ceil(num_tokens / window_tokens)
    generator = torch.Generator().manual_seed(context.seed)
    order: list[int] = []
    for step in range(num_steps):
        context.on_phase("train for movement", step / num_steps)
        order = order or torch.randperm(num_windows, generator=generator).tolist()
        loss = _measure_loss(trained, context.calibrate_WT[order.pop()])
        if not torch.isfinite(loss):
            raise ConfigError(
                "prune_weights.learning_rate", f"after {step} steps the loss is not finite", "take a smaller one"
            )
        # Zeros where a window does not reach a weight: an expert to which no token goes, or a layer that nothing calls.
        gradients = torch.autograd.grad(loss, list(weight_by_name.values()), materialize_grads=True)
        for (name, weight), gradient in zip(weight_by_name.items(), gradients, strict=True):
            score_by_name[name] -= weight.detach() * gradient
            weight.data -= learning_rate * gradient
    return {name: score.detach() for name, score in score_by_name.items()}


@torch.enable_grad()
def _measure_loss(model: PreTrainedModel, tokens_T: Tensor) -> Tensor:
    logits_TV = model(tokens_T[None], use_cache=False).logits[0, :-1].float()
    return functional.cross_entropy(logits_TV, tokens_T[1:])
