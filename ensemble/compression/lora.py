"""Adapters of low rank inside a model's linear layers, put in and merged by peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ensemble.checkpoints.layer_names import is_ignored
from ensemble.compression.step import HEADS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_adapters(model: PreTrainedModel, *, rank: int, alpha: int, seed: int) -> Any:
    """Put adapters that change nothing yet beside every linear layer but the head; they alone learn."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - seconds to import, and few recipes need it

    targets = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and not is_ignored(name, HEADS)
    ]
    options = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, options)


def merge_adapters(adapted: Any) -> None:
    """Add the adapters to the weights, and take them out of the model."""
    adapted.merge_and_unload()
