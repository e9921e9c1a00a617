"""Shows that a model can be run on the cache that it serves with: at the start, and after a pass that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensemble.engines.forward_passes import Segment
from ensemble.errors import CheckpointError, ConfigError, MemberError

if TYPE_CHECKING:
    import torch

    from ensemble.engines.block_pool import CacheRow
    from ensemble.engines.forward_passes import ForwardPasses
    from ensemble.engines.paged_cache import PagedCache

_TOKEN = 0


class CacheProbe:
    """Reads a token and decodes a second one, in a row of its own that it gives back."""

    def __init__(self, passes: ForwardPasses, cache: PagedCache, *, member: str) -> None:
        self._passes = passes
        self._cache = cache
        self._member = member

    def allocate(self) -> None:
        """Make the cache, whose first pass takes its memory.

        Raises:
            ConfigError: there is not that much memory.
            CheckpointError: the model's logits are not numbers.
        """
        try:
            self.check()
        except MemberError as fault:
            raise CheckpointError(f"member {self._member}", fault.problem, "take an undamaged checkpoint") from fault
        except (MemoryError, RuntimeError) as error:
            # The model has run on a small cache before: what is new is the size.
            raise ConfigError(
                "engine.kv_cache_gib",
                f"the cache of {self._cache.num_tokens} tokens cannot be made: {type(error).__name__}: {error}",
                "lower it, engine.max_batch or engine.max_context",
            ) from error

    def check(self) -> None:
        """Run both passes; raises whatever the model raises.

        Raises:
            MemberError: its logits are not numbers.
        """
        row = self._cache.open_row((), capacity=2)
        if row is None:
            self._judge(self._passes.read([Segment.of_prompt((_TOKEN,))]))
            return
        is_sound = False
        try:
            self._run(row)
            is_sound = True
        finally:
            self._cache.close_row(row, is_sound=is_sound)

    def _run(self, row: CacheRow) -> None:
        self._judge(self._passes.read([Segment.of_prompt((_TOKEN,))], self._cache, [row]))
        self._judge(self._passes.step([_TOKEN], [row], self._cache))

    def _judge(self, logits_NV: torch.Tensor) -> None:
        if bool(logits_NV.isnan().any()):
            raise MemberError(self._member, self._passes.fault)
