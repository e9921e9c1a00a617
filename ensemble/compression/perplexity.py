"""How surprised a model is by text.

Axes: W windows, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ensemble.checkpoints.progress import OnPhase, ignore_phase

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@torch.inference_mode()
def measure_perplexity(model: PreTrainedModel, windows_WT: Tensor, *, on_phase: OnPhase = ignore_phase) -> float:
    """Give exp of the mean negative log-likelihood of every token but each window's first; infinity on overflow."""
    total = 0.0
    for done, tokens_T in enumerate(windows_WT):
        on_phase("measure perplexity", done / len(windows_WT))
        logits_TV = model(tokens_T[None], use_cache=False).logits[0, :-1].float()
        total += functional.cross_entropy(logits_TV, tokens_T[1:], reduction="sum").item()
    mean = total / (windows_WT.shape[0] * (windows_WT.shape[1] - 1))
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf
