"""Loading a checkpoint with 8-bit weights without ever unpacking it in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ensemble.checkpoints.folder import find_weight_files
from ensemble.checkpoints.int8_format import read_int8_ignore, unpack_tensors
from ensemble.checkpoints.int8_linear import Int8Linear
from ensemble.checkpoints.layer_names import is_ignored
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel


def load_int8_model(folder: Path, quantization: object, dtype: torch.dtype) -> PreTrainedModel:
    """Build the model without memory for its weights, put 8-bit layers in, then read the weights into it.

    Raises:
        CheckpointError: the weights are quantised in another way, or do not fit the config.
    """
    ignore = read_int8_ignore(str(folder), quantization)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    del config.quantization_config
    # Buffers stay real: rotary frequencies are computed, not stored.
    with init_empty_weights(include_buffers=False):
        build: Any = AutoModelForCausalLM.from_config
        model: PreTrainedModel = build(config, dtype=dtype)
        place_int8_layers(model, ignore=ignore)
    tensors = _read_tensors(folder, dtype)
    expected = set(model.state_dict()) - set(model.all_tied_weights_keys)
    if odd := sorted(expected.symmetric_difference(tensors)):
        raise CheckpointError(
            str(folder), f"weights and config disagree about {', '.join(odd[:3])}", "give a whole checkpoint"
        )
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    return model


def place_int8_layers(model: nn.Module, *, ignore: tuple[str, ...]) -> list[str]:
    """Put an empty ``Int8Linear`` in the place of every ``nn.Linear`` that is not ignored; give their names."""
    names = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and not is_ignored(name, ignore)
    ]
    for name in names:
        layer = cast("nn.Linear", model.get_submodule(name))
        model.set_submodule(name, Int8Linear(layer.in_features, layer.out_features, bias=layer.bias is not None))
    return names


def _read_tensors(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in find_weight_files(folder):
        tensors |= load_file(path)
    # Scales stay float32: they are few, and rounding them would shift whole rows.
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() and not name.endswith(".weight_scale") else tensor
        for name, tensor in unpack_tensors(tensors).items()
    }
