"""Completions each of whose tokens comes from one checkpoint, drawn with the weights.

Axes: B rows, M checkpoints, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from ensemble.engines.batch import Batch, Step
from ensemble.engines.forward_passes import Segment
from ensemble.engines.sampling import draw_tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ensemble.engines.forward_passes import ForwardPasses
    from ensemble.engines.fused_passes import FusedCache, FusedPasses
    from ensemble.engines.jobs import GenerationJob, Job
    from ensemble.engines.limits import Limits
    from ensemble.engines.paged_cache import PagedCache


@dataclass(slots=True, kw_only=True)
class Draws:
    """One completion's randomness, and for each checkpoint the last tokens, which it has not read yet."""

    generator: torch.Generator
    unread: list[list[int]]

    def draw_part(self, weight_1M: torch.Tensor) -> int:
        """Draw the checkpoint that gives the next token."""
        uniform = torch.rand((), generator=self.generator, dtype=torch.float64).item()
        return int(draw_tokens(weight_1M, [uniform]).item())


class MixSampleBatch(Batch):
    """Each token is drawn from one checkpoint's distribution, which temperature and top_p have shaped.

    A prompt is read by all. After it a checkpoint runs for the rows alone that have drawn it, and reads there in the
    same pass what it has missed. Checkpoints are drawn by the request's seed; a greedy request without one draws the
    same ones each time. The passes keep their parts.
    """

    def __init__(self, passes: ForwardPasses, cache: PagedCache, limits: Limits) -> None:
        super().__init__(passes, cache, limits)
        self._fused = cast("FusedPasses", passes)
        self._caches = cast("FusedCache", cache).parts
        self._weight_1M = torch.tensor([self._fused.mixture.weights], dtype=torch.float64)
        self._draws: dict[GenerationJob, Draws] = {}

    def drop(self, gone: Collection[Job]) -> None:
        """Take jobs out."""
        self._draws = {job: draws for job, draws in self._draws.items() if job not in gone}
        super().drop(gone)

    def decode(self, decoders: Sequence[GenerationJob]) -> Step:
        """Give each of ``decoders`` its next token, with a pass of each checkpoint that was drawn."""
        for job in decoders:
            job.row.num_tokens += 1
            for unread in self._draws[job].unread:
                unread.append(job.last_token)
        rows_by_part: dict[int, list[int]] = {}
        for row, job in enumerate(decoders):
            rows_by_part.setdefault(self._draws[job].draw_part(self._weight_1M), []).append(row)
        self._fused.forget_faults()
        logprobs: dict[int, torch.Tensor] = {}
        for part, rows in rows_by_part.items():
            logprobs |= zip(rows, self._read(part, [decoders[row] for row in rows]), strict=True)
        return super()._choose(decoders, torch.stack([logprobs[row] for row in range(len(decoders))]))

    def _read(self, part: int, jobs: Sequence[GenerationJob]) -> torch.Tensor:
        unread = [self._draws[job].unread[part] for job in jobs]
        rows = [job.row.view(ahead=-len(tokens)) for job, tokens in zip(jobs, unread, strict=True)]
        segments = [Segment.of_prompt(tokens, row.num_tokens) for tokens, row in zip(unread, rows, strict=True)]
        passes = self._fused.parts[part]
        logprob_BV = passes.normalise(passes.read(segments, self._caches[part], rows))
        for tokens in unread:
            tokens.clear()
        return self._fused.notice(passes, logprob_BV)

    def _choose(self, jobs: Sequence[GenerationJob], logits_BV: torch.Tensor) -> Step:
        """Choose the first tokens, after prompts that every checkpoint has read."""
        rows = []
        for row, job in enumerate(jobs):
            draws = self._draws[job] = self._begin(job)
            part = draws.draw_part(self._weight_1M)
            # The mixture is broken where any checkpoint is, and so is its cache.
            is_sound = not bool(logits_BV[row, 0].isnan())
            rows.append(self._fused.last_parts[part][row] if is_sound else logits_BV[row])
        return super()._choose(jobs, torch.stack(rows))

    def _begin(self, job: GenerationJob) -> Draws:
        generator = job.sampler.generator
        if generator is None:
            generator = torch.Generator().manual_seed((job.request.parameters.seed or 0) % 2**63)
        return Draws(generator=generator, unread=[[] for _ in self._caches])
