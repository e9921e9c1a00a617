"""How 8-bit weights lie in a checkpoint: compressed-tensors' ``pack-quantized``, weights only, one scale a channel.

``X.weight_packed`` holds the codes, offset by 128, four to an int32 ([O, ceil(I / 4)]); ``X.weight_scale`` float32
[O, 1]; ``X.weight_shape`` the pair O, I. The standard marker in ``config.json`` rather than one of our own, because
transformers ignores a method that it does not know and would take the codes for weights. With this one transformers
asks for the compressed-tensors package, and with it, as in vLLM, the checkpoint loads rightly.

Axes: O output features, I input features, J int32 words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ensemble.checkpoints.layer_names import check_layer_name
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Container

    from torch import Tensor

METHOD = "compressed-tensors"
FORMAT = "pack-quantized"
_CODES_PER_WORD = 4
_SIGN_BIT = 0x80
"""Flipping it adds the offset of 128 to a code in two's complement, or takes it away."""
CHANNEL_WEIGHTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}


def describe_int8(*, ignore: tuple[str, ...], heads: tuple[str, ...] = ()) -> dict[str, Any]:
    """Make the ``quantization_config`` of a checkpoint; ``ignore`` names, in full, the linear layers left float.

    ``heads`` names those that give a token's logits, which vLLM does not count among linear layers.
    """
    return {
        "quant_method": METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "format": FORMAT,
                "targets": ["Linear", *heads],
                "weights": dict(CHANNEL_WEIGHTS),
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": list(ignore),
    }


def read_int8_ignore(where: str, quantization: object) -> tuple[str, ...]:
    """Give the layers that stay float in a checkpoint of this format.

    Raises:
        CheckpointError: it is quantised in another way, or its description is not one.
    """
    described = as_mapping(quantization)
    groups = as_mapping(described.get("config_groups"))
    group = as_mapping(next(iter(groups.values()))) if len(groups) == 1 else {}
    weights = as_mapping(group.get("weights"))
    ours = (
        described.get("quant_method") == METHOD
        and described.get("format") == FORMAT
        and all(weights.get(key, value) == value for key, value in CHANNEL_WEIGHTS.items())
        and weights.get("num_bits") == CHANNEL_WEIGHTS["num_bits"]
        and "Linear" in (group.get("targets") or ())
        and not group.get("input_activations")
    )
    if not ours:
        raise CheckpointError(
            where,
            f"its weights are quantised as {described.get('quant_method')}/{described.get('format', '')}, "
            "which the embedded engine cannot run",
            "give a float checkpoint, one made by `ensemble compress`, or use the vllm engine",
        )
    return read_ignore(where, quantization)


def read_ignore(where: str, quantization: object) -> tuple[str, ...]:
    """Give the layers that a description leaves float.

    Raises:
        CheckpointError: they are not a list of names.
    """
    try:
        return tuple(check_layer_name(name) for name in as_mapping(quantization).get("ignore") or ())
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            where, f"quantization_config.ignore is not a list of layers ({error})", "give a whole checkpoint"
        ) from error


def as_mapping(value: object) -> dict[str, Any]:
    """Give what a JSON object says; anything else says nothing."""
    return value if isinstance(value, dict) else {}


def pack_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn a model's int8 weights into what lies on disk; other tensors pass."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int8:
            packed[f"{name}_packed"] = _pack_codes(tensor)
            packed[f"{name}_shape"] = torch.tensor(tensor.shape)
        else:
            packed[name] = tensor
    return packed


def unpack_tensors(tensors: dict[str, Tensor], *, layers: Container[str] | None = None) -> dict[str, Tensor]:
    """Undo ``pack_tensors``, of these layers alone where they are named.

    Raises:
        KeyError: the shape of a packed weight is absent.
        RuntimeError: the shape does not fit the packed weight.
    """
    unpacked: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if layers is not None and name.rpartition(".")[0] not in layers:
            unpacked[name] = tensor
        elif name.endswith(".weight_packed"):
            stem = name.removesuffix("_packed")
            num_rows, num_columns = tensors[f"{stem}_shape"].tolist()
            unpacked[stem] = _unpack_codes(tensor, num_columns).view(num_rows, num_columns)
        elif not name.endswith(".weight_shape"):
            unpacked[name] = tensor
    return unpacked


def _pack_codes(codes_OI: Tensor) -> Tensor:
    num_padding = -codes_OI.shape[1] % _CODES_PER_WORD
    padded_OI = functional.pad(codes_OI.view(torch.uint8).bitwise_xor(_SIGN_BIT), (0, num_padding))
    return padded_OI.contiguous().view(torch.int32)


def _unpack_codes(words_OJ: Tensor, num_columns: int) -> Tensor:
    bytes_OI = words_OJ.contiguous().view(torch.uint8)[:, :num_columns]
    return bytes_OI.bitwise_xor(_SIGN_BIT).view(torch.int8)
