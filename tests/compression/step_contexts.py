"""What a step is given, for tests of one step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.compression.step import StepContext
from tests.checkpoints.tiny_models import HIDDEN, build_llama, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import PreTrainedModel


def build_windows(num_windows: int = 4, num_tokens: int = 32, *, seed: int = 5) -> Tensor:
    """Draw windows of tokens that ``build_tokenizer`` knows."""
    return torch.randint(4, 500, (num_windows, num_tokens), generator=torch.Generator().manual_seed(seed))


def build_context(
    *,
    calibrate_WT: Tensor | None = None,
    load_original: Callable[[], PreTrainedModel] = build_llama,
    original_layers: tuple[int, ...] = (0, 1, 2, 3),
    original_hidden: tuple[int, ...] = tuple(range(HIDDEN)),
    scratch: Path = Path("/nowhere"),
    progress: Path | None = None,
    on_phase: OnPhase = ignore_phase,
) -> StepContext:
    """Build a context for the tiny models."""
    return StepContext(
        calibrate_WT=build_windows() if calibrate_WT is None else calibrate_WT,
        tokenizer=build_tokenizer(),
        load_original=load_original,
        original_layers=original_layers,
        original_hidden=original_hidden,
        seed=0,
        scratch=scratch,
        progress=scratch if progress is None else progress,
        on_phase=on_phase,
    )
