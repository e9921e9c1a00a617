"""What one engine takes on at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from ensemble.engines.config import EmbeddedEngineConfig

# Logits of one scoring pass, as float32 values: 256 MiB.
_MAX_LOGITS = 2**26


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the embedded engine's batch.

    ``max_batch`` bounds the completions, and as well the scorings, that run; ``max_context`` is the config's or the
    model's, whichever is smaller; ``max_step_tokens`` and ``max_outputs`` bound a forward pass by what it reads and by
    the logits it gives.
    """

    max_batch: int
    max_context: int
    max_step_tokens: int
    max_outputs: int

    @classmethod
    def from_config(cls, config: EmbeddedEngineConfig, *, model_context: int | None, vocab_size: int) -> Self:
        """Combine what the operator and the model allow."""
        return cls(
            max_batch=config.max_batch,
            max_context=min(config.max_context, model_context or config.max_context),
            max_step_tokens=config.max_step_tokens,
            max_outputs=max(1, _MAX_LOGITS // vocab_size),
        )
