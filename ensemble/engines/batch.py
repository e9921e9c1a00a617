"""The completions that are decoded together, one cache row each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ensemble.engines.block_pool import CacheRow
from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.engines.jobs import GenerationJob, Job
from ensemble.engines.sampling import choose_tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import torch

    from ensemble.engines.limits import Limits
    from ensemble.engines.paged_cache import PagedCache

Step = list[tuple[GenerationJob, tuple[int, float]]]
"""The tokens that one forward pass gave, with their log-probabilities."""


class Batch:
    """Jobs that wait for their prompt to be read, at most one that is read in pieces, and those that are decoded.

    A job gets its cache row, with room for all it may write, when the reading of its prompt begins. So nothing that has
    begun ever lacks room.
    """

    def __init__(self, passes: ForwardPasses, cache: PagedCache, limits: Limits) -> None:
        self._passes = passes
        self._cache = cache
        self._limits = limits
        self._unread: list[GenerationJob] = []
        self._begun: list[GenerationJob] = []

    @property
    def num_free(self) -> int:
        """Places for more jobs."""
        return self._limits.max_batch - len(self._begun) - len(self._unread)

    @property
    def jobs(self) -> list[GenerationJob]:
        """All jobs, those that have a row first."""
        return [*self._begun, *self._unread]

    def join(self, job: GenerationJob) -> None:
        """Take a job in; its prompt is read by a later ``read_prompts``."""
        self._unread.append(job)

    def drop(self, gone: Collection[Job]) -> None:
        """Take jobs out and give their rows back."""
        for job in self._begun:
            if job in gone:
                self._cache.close_row(job.row, is_sound=not job.is_broken)
                job.row = CacheRow(blocks=[])
        self._begun = [job for job in self._begun if job not in gone]
        self._unread = [job for job in self._unread if job not in gone]

    @property
    def needs_room(self) -> bool:
        """Whether a job could begin if it had a row."""
        return bool(self._unread) and not self.next_readers()

    def claim_room(self) -> bool:
        """Give rows to the jobs whose prompts the next pass reads: one long, or several whole; False if none fits."""
        reading: list[GenerationJob] = []
        room, reusable = self._limits.max_step_tokens, self._limits.max_reused_tokens
        being_read: set[bytes | None] = set()
        for job in self._unread:
            num_known, next_key = self._cache.match(job.prompt)
            room -= len(job.prompt) - num_known
            reusable -= num_known
            # A prompt that begins as one of this pass does waits for the next, which finds that beginning read.
            if reading and (min(room, reusable) < 0 or (next_key is not None and next_key in being_read)):
                break
            row = self._cache.open_row(job.prompt, capacity=job.max_cached)
            if row is None:
                break
            job.row = row
            being_read.add(next_key)
            reading.append(job)
        self._begun += reading
        self._unread = self._unread[len(reading) :]
        return bool(reading)

    def next_readers(self) -> list[GenerationJob]:
        """Choose the jobs whose prompts the next pass reads."""
        return [job for job in self._begun if not job.is_read]

    def read_prompts(self, readers: Sequence[GenerationJob]) -> Step:
        """Read the prompts of ``next_readers``, or a piece of one; give the first tokens of those that are read."""
        segments = []
        for job in readers:
            start = job.row.num_tokens
            segments.append(Segment.of_prompt(job.prompt[start : start + self._limits.max_step_tokens], start))
        logits_BV = self._passes.read(segments, self._cache, [job.row for job in readers])
        if not readers[-1].is_read:
            readers[-1].is_broken |= bool(logits_BV.isnan().any())
            return []
        step = self._choose(readers, logits_BV)
        for job, (_, logprob) in step:
            if math.isfinite(logprob):
                self._cache.publish(job.row, job.prompt)
        return step

    def decoders(self) -> list[GenerationJob]:
        """Choose the jobs that the next decoding pass serves."""
        return [job for job in self._begun if job.is_read]

    def decode(self, decoders: Sequence[GenerationJob]) -> Step:
        """Give each of ``decoders`` its next token."""
        logits_BV = self._passes.step([job.last_token for job in decoders], [job.row for job in decoders], self._cache)
        return self._choose(decoders, logits_BV)

    def _choose(self, jobs: Sequence[GenerationJob], logits_BV: torch.Tensor) -> Step:
        tokens = choose_tokens(logits_BV, [job.sampler for job in jobs])
        return list(zip(jobs, tokens, strict=True))
