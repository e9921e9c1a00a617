"""Loading a checkpoint with 8-bit or 4-bit weights without ever making them floats in memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig

from ensemble.checkpoints.folder import find_weight_files
from ensemble.checkpoints.int4_format import Int4Layers, is_int4, read_int4_layers
from ensemble.checkpoints.int4_linear import Int4Linear
from ensemble.checkpoints.int8_format import read_int8_ignore, unpack_tensors
from ensemble.checkpoints.int8_linear import Int8Linear
from ensemble.checkpoints.layer_names import is_ignored
from ensemble.checkpoints.w8a8_format import W8A8Format, has_w8a8_format
from ensemble.checkpoints.w8a8_linear import W8A8Linear
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    Unpack = Callable[[dict[str, Tensor]], dict[str, Tensor]]

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def load_quantized_model(folder: Path, quantization: object, dtype: torch.dtype, *, auto_class: Any) -> PreTrainedModel:
    """Build the model without memory for its weights, put quantised layers in, then read the weights into it.

    Raises:
        CheckpointError: the weights are quantised in another way, or do not fit the config.
    """
    place, unpack = _read_description(str(folder), quantization)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    del config.quantization_config
    # Buffers stay real: rotary frequencies are computed, not stored.
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = auto_class.from_config(config, dtype=dtype)
        place(model)
    tensors = _read_tensors(folder, dtype, unpack)
    expected = set(model.state_dict()) - set(model.all_tied_weights_keys)
    if odd := sorted(expected.symmetric_difference(tensors)):
        raise CheckpointError(
            str(folder), f"weights and config disagree about {', '.join(odd[:3])}", "give a whole checkpoint"
        )
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    return model


def _read_description(where: str, quantization: object) -> tuple[Callable[[nn.Module], object], Unpack]:
    """Say how to put a checkpoint's kind of layers into a model, and how its tensors become theirs."""
    if has_w8a8_format(quantization):
        return partial(place_w8a8_layers, form=W8A8Format.read(where, quantization)), dict
    if is_int4(quantization):
        layers = read_int4_layers(where, quantization)
        return partial(place_int4_layers, layers=layers, where=where), partial(
            unpack_tensors, layers=layers.int8_layers
        )
    return partial(place_int8_layers, ignore=read_int8_ignore(where, quantization)), unpack_tensors


def place_w8a8_layers(model: nn.Module, form: W8A8Format) -> None:
    """Put an empty ``W8A8Linear`` in the place of every ``nn.Linear`` that is not ignored."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and not is_ignored(name, form.ignore):
            empty = W8A8Linear(
                layer.in_features,
                layer.out_features,
                dtype=form.dtype,
                per_channel=form.per_channel,
                bias=layer.bias is not None,
            )
            model.set_submodule(name, empty)


def place_int4_layers(model: nn.Module, layers: Int4Layers, *, where: str) -> None:
    """Put an empty ``Int4Linear`` or ``Int8Linear`` in the place of every layer that is named.

    Raises:
        CheckpointError: the model has no such linear layer, or its groups do not fit.
    """
    modules = dict(model.named_modules())
    for name, group_size in layers.group_size_by_layer.items():
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear) or layer.in_features % group_size:
            raise CheckpointError(
                where, f"{name} is no linear layer in groups of {group_size}", "give a whole checkpoint"
            )
        empty = Int4Linear(layer.in_features, layer.out_features, group_size=group_size, bias=layer.bias is not None)
        model.set_submodule(name, empty)
    for name in layers.int8_layers:
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear):
            raise CheckpointError(where, f"{name} is no linear layer", "give a whole checkpoint")
        model.set_submodule(name, _empty_int8(layer))


def place_int8_layers(model: nn.Module, *, ignore: tuple[str, ...]) -> list[str]:
    """Put an empty ``Int8Linear`` in the place of every ``nn.Linear`` that is not ignored; give their names."""
    names = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and not is_ignored(name, ignore)
    ]
    for name in names:
        model.set_submodule(name, _empty_int8(cast("nn.Linear", model.get_submodule(name))))
    return names


def _empty_int8(layer: nn.Linear) -> Int8Linear:
    return Int8Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)


def _read_tensors(folder: Path, dtype: torch.dtype, unpack: Unpack) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in find_weight_files(folder):
        tensors |= load_file(path)
    # Scales stay float32: they are few, and rounding them would shift whole rows. Float8 holds codes.
    return {
        name: tensor.to(dtype) if tensor.dtype in _FLOATS and not name.endswith(".weight_scale") else tensor
        for name, tensor in unpack(tensors).items()
    }
