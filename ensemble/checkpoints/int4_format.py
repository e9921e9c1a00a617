"""How 4-bit weights lie in a checkpoint: compressed-tensors' ``pack-quantized``, weights only, scales by group.

``X.weight_packed`` holds the codes, offset by 8, eight to an int32 ([O, I / 8]); ``X.weight_scale`` float32 [O, G];
``X.weight_shape`` the pair O, I. Layers of one group size make a config group, whose targets are their full names. Some
layers may have 8 bits, as in ``int8_format``; these make a config group, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ensemble.checkpoints.int4_linear import GROUP_SIZES
from ensemble.checkpoints.int8_format import CHANNEL_WEIGHTS, FORMAT, METHOD, as_mapping
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

_WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "dynamic": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Int4Layers:
    """The quantised layers of a checkpoint, by their full names."""

    group_size_by_layer: Mapping[str, int]
    """Those of 4 bits."""
    int8_layers: tuple[str, ...] = ()
    """Those of 8 bits, with a scale for each output channel."""


def describe_int4(layers: Int4Layers, *, ignore: tuple[str, ...]) -> dict[str, Any]:
    """Make the ``quantization_config`` of a checkpoint; ``ignore`` names, in full, the linear layers left float."""
    sizes = sorted(set(layers.group_size_by_layer.values()), reverse=True)
    groups = [
        (
            {**_WEIGHTS, "group_size": group_size},
            [name for name, size in layers.group_size_by_layer.items() if size == group_size],
        )
        for group_size in sizes
    ]
    if layers.int8_layers:
        groups.append((dict(CHANNEL_WEIGHTS), list(layers.int8_layers)))
    return {
        "quant_method": METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{index}": {
                "format": FORMAT,
                "targets": targets,
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
            for index, (weights, targets) in enumerate(groups)
        },
        "ignore": list(ignore),
    }


def is_int4(quantization: object) -> bool:
    """Say whether a description is of 4-bit weights in groups, whatever else is right or wrong about it."""
    return any(
        isinstance(group, dict)
        and isinstance(group.get("weights"), dict)
        and group["weights"].get("num_bits") == _WEIGHTS["num_bits"]
        for group in _config_groups(quantization).values()
    )


def read_int4_layers(where: str, quantization: object) -> Int4Layers:
    """Tell the quantised layers, by their full names.

    Raises:
        CheckpointError: it is quantised in another way, or its description is not one.
    """
    described = as_mapping(quantization)
    is_ours = described.get("quant_method") == METHOD and described.get("format") == FORMAT
    group_size_by_layer: dict[str, int] = {}
    int8_layers: list[str] = []
    for group in _config_groups(quantization).values():
        weights, targets = as_mapping(group.get("weights")), group.get("targets")
        if not is_ours or not _names_layers(targets) or group.get("input_activations"):
            is_ours = False
        elif _says(weights, CHANNEL_WEIGHTS):
            int8_layers += targets
        elif _says(weights, _WEIGHTS) and weights.get("group_size") in GROUP_SIZES:
            group_size_by_layer |= dict.fromkeys(targets, weights["group_size"])
        else:
            is_ours = False
    if not is_ours or not group_size_by_layer:
        raise CheckpointError(
            where,
            "its 4-bit weights are not in groups of 128, 64 or 32 for layers named in full",
            "give a float checkpoint, one made by `ensemble compress`, or use the vllm engine",
        )
    return Int4Layers(group_size_by_layer=group_size_by_layer, int8_layers=tuple(int8_layers))


def _names_layers(targets: object) -> bool:
    """Say whether all targets are names of layers: no patterns, and not a kind of them."""
    return isinstance(targets, list) and all(
        isinstance(name, str) and ":" not in name and name != "Linear" for name in targets
    )


def _says(weights: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return all(weights.get(key) == value for key, value in expected.items())


def _config_groups(quantization: object) -> dict[str, Any]:
    groups = quantization.get("config_groups") if isinstance(quantization, dict) else None
    return groups if isinstance(groups, dict) and all(isinstance(group, dict) for group in groups.values()) else {}
