"""How 4-bit weights lie in a checkpoint: compressed-tensors' ``pack-quantized``, weights only, scales by group.

``X.weight_packed`` holds the codes, offset by 8, eight to an int32 ([O, I / 8]); ``X.weight_scale`` float32 [O, G];
``X.weight_shape`` the pair O, I. Layers of one group size make a config group, whose targets are their full names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ensemble.checkpoints.int4_linear import GROUP_SIZES
from ensemble.checkpoints.int8_format import FORMAT, METHOD
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

_WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "dynamic": False}


def describe_int4(group_size_by_layer: Mapping[str, int], *, ignore: tuple[str, ...]) -> dict[str, Any]:
    """Make the ``quantization_config`` of a checkpoint; ``ignore`` names, in full, the linear layers left float."""
    sizes = sorted(set(group_size_by_layer.values()), reverse=True)
    return {
        "quant_method": METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{index}": {
                "format": FORMAT,
                "targets": [name for name, size in group_size_by_layer.items() if size == group_size],
                "weights": {**_WEIGHTS, "group_size": group_size},
                "input_activations": None,
                "output_activations": None,
            }
            for index, group_size in enumerate(sizes)
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


def read_int4_layers(where: str, quantization: object) -> dict[str, int]:
    """Give the group size of every 4-bit layer, by its full name.

    Raises:
        CheckpointError: it is quantised in another way, or its description is not one.
    """
    described = quantization if isinstance(quantization, dict) else {}
    is_ours = described.get("quant_method") == METHOD and described.get("format") == FORMAT
    group_size_by_layer: dict[str, int] = {}
    for group in _config_groups(quantization).values():
        weights, targets = group.get("weights"), group.get("targets")
        is_ours = (
            is_ours
            and isinstance(weights, dict)
            and isinstance(targets, list)
            and all(weights.get(key) == value for key, value in _WEIGHTS.items())
            and weights.get("group_size") in GROUP_SIZES
            and not group.get("input_activations")
            and all(isinstance(name, str) and "." in name and ":" not in name for name in targets)
        )
        if not is_ours:
            break
        group_size_by_layer |= dict.fromkeys(targets, weights["group_size"])
    if not is_ours or not group_size_by_layer:
        raise CheckpointError(
            where,
            "its 4-bit weights are not in groups of 128, 64 or 32 for layers named in full",
            "give a float checkpoint, one made by `ensemble compress`, or use the vllm engine",
        )
    return group_size_by_layer


def _config_groups(quantization: object) -> dict[str, Any]:
    groups = quantization.get("config_groups") if isinstance(quantization, dict) else None
    return groups if isinstance(groups, dict) and all(isinstance(group, dict) for group in groups.values()) else {}
