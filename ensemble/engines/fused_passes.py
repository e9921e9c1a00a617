"""The forward passes of several checkpoints, mixed as if they were one model's.

Axes: N outputs, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.engines.paged_cache import PagedCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch
    from transformers import PreTrainedModel

    from ensemble.engines.block_pool import CacheRow
    from ensemble.engines.fused_mixture import Mixture

    Run = Callable[["PartPasses", PagedCache | None, list[CacheRow | None]], torch.Tensor]


class FusedCache(PagedCache):
    """The first checkpoint's cache, with those of the others: a row's blocks have the same numbers in all of them.

    Which blocks are taken, and whose they are, the first keeps for all. The bytes are those of all together.
    """

    def __init__(
        self, others: Sequence[PagedCache], *, num_layers: int, num_tokens: int, reuses_prefixes: bool
    ) -> None:
        super().__init__(num_layers=num_layers, num_tokens=num_tokens, reuses_prefixes=reuses_prefixes)
        self._others = tuple(others)

    @property
    def parts(self) -> tuple[PagedCache, ...]:
        """One cache a checkpoint, in order."""
        return (self, *self._others)

    @property
    def num_bytes(self) -> int:
        """What is allocated; 0 before the first forward pass."""
        return super().num_bytes + sum(other.num_bytes for other in self._others)

    def watch(self, check: Callable[[], None]) -> None:
        """Call this in every layer of every checkpoint."""
        super().watch(check)
        for other in self._others:
            other.watch(check)

    def begin_pass(self) -> None:
        """Forget what the last pass wrote to every cache."""
        super().begin_pass()
        for other in self._others:
            other.begin_pass()

    def wipe_pass(self) -> None:
        """Zero what was written to every cache since the pass began."""
        super().wipe_pass()
        for other in self._others:
            other.wipe_pass()

    def wipe(self, blocks: Sequence[int]) -> None:
        """Zero these blocks in every cache."""
        super().wipe(blocks)
        for other in self._others:
            other.wipe(blocks)


class PartPasses(ForwardPasses):
    """One checkpoint's passes; ``name`` is what errors call it."""

    def __init__(self, model: PreTrainedModel, *, name: str, vocab_size: int) -> None:
        super().__init__(model)
        self.name = name
        self._vocab_size = vocab_size

    def normalise(self, logits_NV: torch.Tensor) -> torch.Tensor:
        """Make log-probabilities over the group's tokens: a head's padding rows are no tokens."""
        return logits_NV[:, : self._vocab_size].log_softmax(-1)


class FusedPasses(ForwardPasses):
    """Runs every checkpoint for each pass; what it gives as logits are the mixture's log-probabilities.

    ``models`` are named for errors. Hidden states are the first checkpoint's. With ``keeps_parts``, ``last_parts`` has
    the checkpoints' own log-probabilities of the last pass, in order.
    """

    def __init__(
        self,
        models: Sequence[tuple[str, PreTrainedModel]],
        mixture: Mixture,
        *,
        vocab_size: int,
        keeps_parts: bool = False,
    ) -> None:
        super().__init__(models[0][1])
        self.parts = tuple(PartPasses(model, name=name, vocab_size=vocab_size) for name, model in models)
        self.mixture = mixture
        self.last_parts: list[torch.Tensor] = []
        self._keeps_parts = keeps_parts
        self._broken: list[str] = []

    @property
    def fault(self) -> str:
        """Say what was wrong with the last pass, whose logits were not numbers."""
        names = " and ".join(dict.fromkeys(self._broken))
        return f"checkpoint {names} gave logits that are not numbers"

    def new_cache(self, *, num_tokens: int, reuses_prefixes: bool = True) -> FusedCache:
        """Make an empty cache for every checkpoint."""
        first, *others = (part.new_cache(num_tokens=num_tokens, reuses_prefixes=False) for part in self.parts)
        return FusedCache(others, num_layers=len(first.layers), num_tokens=num_tokens, reuses_prefixes=reuses_prefixes)

    def read(
        self, segments: Sequence[Segment], cache: PagedCache | None = None, rows: Sequence[CacheRow | None] = ()
    ) -> torch.Tensor:
        """Read segments with every checkpoint; see ForwardPasses."""
        logprob_NV = self._run_all(lambda part, kept, views: part.read(segments, kept, views), cache, rows)
        for segment, row in zip(segments, rows, strict=False):
            if row is not None:
                row.num_tokens += segment.num_trunk
        return logprob_NV

    def step(self, tokens: Sequence[int], rows: Sequence[CacheRow], cache: PagedCache) -> torch.Tensor:
        """Add one token to each row with every checkpoint."""

        def step_part(part: PartPasses, kept: PagedCache | None, views: list[CacheRow | None]) -> torch.Tensor:
            return part.step(tokens, cast("list[CacheRow]", views), cast("PagedCache", kept))

        logprob_BV = self._run_all(step_part, cache, rows)
        for row in rows:
            row.num_tokens += 1
        return logprob_BV

    def mix(self, logprobs: Iterable[torch.Tensor]) -> torch.Tensor:
        """Mix the checkpoints' log-probabilities, given in order, and notice which are not numbers."""
        self.forget_faults()
        return self.mixture.mix(map(self.notice, self.parts, logprobs))

    def forget_faults(self) -> None:
        """Begin a pass: what was noticed of the last one is over."""
        self._broken, self.last_parts = [], []

    def notice(self, part: PartPasses, logprob_NV: torch.Tensor) -> torch.Tensor:
        """Look at what a checkpoint gave, and give it back."""
        # One number that is none makes its whole row so.
        if bool(logprob_NV[:, 0].isnan().any()):
            self._broken.append(part.name)
        if self._keeps_parts:
            self.last_parts.append(logprob_NV)
        return logprob_NV

    def _run_all(self, run: Run, cache: PagedCache | None, rows: Sequence[CacheRow | None]) -> torch.Tensor:
        caches = (None,) * len(self.parts) if cache is None else cast("FusedCache", cache).parts
        return self.mix(
            part.normalise(run(part, kept, [row and row.view() for row in rows]))
            for part, kept in zip(self.parts, caches, strict=True)
        )
