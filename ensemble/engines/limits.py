"""What one engine takes on at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from ensemble.engines.block_pool import BLOCK_TOKENS
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from ensemble.engines.config import EmbeddedEngineConfig, FusedEngineConfig

# Logits of one scoring pass, as float32 values: 256 MiB.
_MAX_LOGITS = 2**26
_MAX_REUSED_PER_FED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the embedded engine's batch.

    ``max_batch`` bounds the completions, and as well the scorings, that run; ``max_context`` is the config's or the
    model's, whichever is smaller; ``max_step_tokens`` and ``max_outputs`` bound a forward pass by what it reads and by
    the logits it gives. ``cache_tokens`` bounds the key-value cache, of all requests together, and ``prefix_caching``
    says whether it keeps what was read of prompts that begin alike.
    """

    max_batch: int
    max_context: int
    max_step_tokens: int
    max_outputs: int
    cache_tokens: int
    prefix_caching: bool = True

    @property
    def max_reused_tokens(self) -> int:
        """Tokens that the prompts of one pass may reuse together: each token fed is compared with all of them."""
        return _MAX_REUSED_PER_FED * self.max_step_tokens

    @classmethod
    def from_config(
        cls, config: EmbeddedEngineConfig | FusedEngineConfig, *, model_context: int | None, logits_per_output: int
    ) -> Self:
        """Combine what the operator and the model allow; an output's logits are all that are in memory for it."""
        max_context = min(config.max_context, model_context or config.max_context)
        return cls(
            max_batch=config.max_batch,
            max_context=max_context,
            max_step_tokens=config.max_step_tokens,
            max_outputs=max(1, _MAX_LOGITS // logits_per_output),
            cache_tokens=config.max_batch * max_context,
        )

    def with_cache(self, kv_cache_gib: float | None, *, bytes_per_token: int) -> Self:
        """Bound the cache by its stated size; unset leaves room for ``max_batch`` requests of ``max_context`` tokens.

        Raises:
            ConfigError: not even one request of ``max_context`` tokens would fit.
        """
        if kv_cache_gib is None:
            return self
        cache_tokens = int(kv_cache_gib * 2**30) // (bytes_per_token * BLOCK_TOKENS) * BLOCK_TOKENS
        if cache_tokens < self.max_context:
            needed_gib = (self.max_context + BLOCK_TOKENS) * bytes_per_token / 2**30
            raise ConfigError(
                "engine.kv_cache_gib",
                f"{kv_cache_gib:g} GiB hold {cache_tokens} tokens of {bytes_per_token} bytes, and one request may have "
                f"{self.max_context}",
                f"give {math.ceil(needed_gib * 1000) / 1000:g} or more, or lower engine.max_context",
            )
        return replace(self, cache_tokens=min(cache_tokens, self.cache_tokens))
