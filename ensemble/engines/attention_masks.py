"""Ready 4-D attention masks for every kind of layer that a model has.

Axes: B rows, Q tokens fed, K keys seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_FULL, _SLIDING = "full_attention", "sliding_attention"


class AttentionMasks:
    """Builds what transformers' models take as a prepared ``attention_mask``.

    A model whose config names layer types takes one mask a type, any other a single mask. Masks are additive, which
    eager and sdpa attention both take.
    """

    def __init__(self, config: PreTrainedConfig, dtype: torch.dtype) -> None:
        text_config = config.get_text_config()
        window: int | None = getattr(text_config, "sliding_window", None)
        layer_types = getattr(text_config, "layer_types", None)
        unknown = sorted(set(layer_types or ()) - {_FULL, _SLIDING})
        if unknown:
            raise CheckpointError(
                "checkpoint", f"its layers are of type {', '.join(unknown)}", "take one with full or sliding attention"
            )
        self._is_keyed = layer_types is not None
        if layer_types is None:
            layer_types = [_FULL if window is None else _SLIDING]
        self._window_by_type = {kind: window if kind == _SLIDING else None for kind in sorted(set(layer_types))}
        self._dtype = dtype

    def build(self, visible_BQK: torch.Tensor, distance_BQK: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Mask all but the visible keys; ``distance`` is the query's position less the key's."""
        mask_by_type = {
            kind: self._additive(visible_BQK if window is None else visible_BQK & (distance_BQK < window))
            for kind, window in self._window_by_type.items()
        }
        return mask_by_type if self._is_keyed else next(iter(mask_by_type.values()))

    def _additive(self, visible_BQK: torch.Tensor) -> torch.Tensor:
        mask_B1QK = torch.zeros(visible_BQK.shape, dtype=self._dtype, device=visible_BQK.device)
        return mask_B1QK.masked_fill_(~visible_BQK, torch.finfo(self._dtype).min).unsqueeze(1)
