"""How weights lie in a checkpoint whose layers have 8-bit inputs, too: compressed-tensors, not packed.

``X.weight`` holds the codes (int8 in ``int-quantized``, float8 e4m3fn in ``float-quantized``; [O, I]);
``X.weight_scale`` float32, [O, 1], or [1] where one scale serves a whole layer. Nothing is stored about inputs: each
token is scaled by its own largest magnitude when it comes (dynamic).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from ensemble.checkpoints.int8_format import METHOD, as_mapping, read_ignore
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from typing import Self

_DTYPE_BY_FORMAT = {"int-quantized": torch.int8, "float-quantized": torch.float8_e4m3fn}
_TYPE_BY_FORMAT = {"int-quantized": "int", "float-quantized": "float"}


@dataclass(frozen=True, slots=True, kw_only=True)
class W8A8Format:
    """Which of the ways of 8-bit weights and inputs a checkpoint has."""

    name: Literal["int-quantized", "float-quantized"]
    per_channel: bool
    """Whether each output feature has a scale of its own, or a layer one for all."""
    ignore: tuple[str, ...]
    """The linear layers that are float, by name."""

    @property
    def dtype(self) -> torch.dtype:
        """The codes' dtype."""
        return _DTYPE_BY_FORMAT[self.name]

    def describe(self) -> dict[str, Any]:
        """Make the ``quantization_config`` of a checkpoint."""
        numbers = {"num_bits": 8, "type": _TYPE_BY_FORMAT[self.name], "symmetric": True}
        return {
            "quant_method": METHOD,
            "format": self.name,
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "format": self.name,
                    "targets": ["Linear"],
                    "weights": {
                        **numbers,
                        "strategy": "channel" if self.per_channel else "tensor",
                        "dynamic": False,
                    },
                    "input_activations": {**numbers, "strategy": "token", "dynamic": True},
                    "output_activations": None,
                }
            },
            "ignore": list(self.ignore),
        }

    @classmethod
    def read(cls, where: str, quantization: object) -> Self:
        """Read a description whose format is one of the two.

        Raises:
            CheckpointError: it says something that is not done here.
        """
        described = as_mapping(quantization)
        groups = as_mapping(described.get("config_groups"))
        group = as_mapping(next(iter(groups.values()))) if len(groups) == 1 else {}
        strategy = as_mapping(group.get("weights")).get("strategy")
        found = cls(
            name=described["format"], per_channel=strategy == "channel", ignore=read_ignore(where, quantization)
        )
        own = found.describe()["config_groups"]["group_0"]
        is_ours = described.get("quant_method") == METHOD and group.get("targets") == own["targets"]
        for part in ("weights", "input_activations"):
            said = as_mapping(group.get(part))
            is_ours = is_ours and all(said.get(key) == value for key, value in own[part].items())
        if not is_ours:
            raise CheckpointError(
                where,
                "its 8-bit layers are not symmetric with a scale a channel or layer and one a token",
                "give a float checkpoint, one made by `ensemble compress`, or use the vllm engine",
            )
        return found


def has_w8a8_format(quantization: object) -> bool:
    """Say whether a description is of 8-bit weights and inputs, whatever else is right or wrong about it."""
    return as_mapping(quantization).get("format") in _DTYPE_BY_FORMAT
