"""The completions that are decoded together, one cache row each."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.engines.jobs import GenerationJob
from ensemble.engines.sampling import choose_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ensemble.engines.limits import Limits
    from ensemble.engines.slot_cache import SlotCache

Step = list[tuple[GenerationJob, tuple[int, float]]]
"""The tokens that one forward pass gave, with their log-probabilities."""


class Batch:
    """Rows of the cache, in order: jobs whose prompt is read, then at most one whose prompt is read in pieces.

    Jobs that wait for their prompt to be read have no row yet.
    """

    def __init__(self, passes: ForwardPasses, cache: SlotCache, limits: Limits) -> None:
        self._passes = passes
        self._cache = cache
        self._limits = limits
        self._rows: list[GenerationJob] = []
        self._unread: list[GenerationJob] = []

    @property
    def num_free(self) -> int:
        """Places for more jobs."""
        return self._limits.max_batch - len(self._rows) - len(self._unread)

    @property
    def jobs(self) -> list[GenerationJob]:
        """All jobs, those that have a row first."""
        return [*self._rows, *self._unread]

    def join(self, job: GenerationJob) -> None:
        """Take a job in; its prompt is read by a later ``read_prompts``."""
        self._unread.append(job)

    def drop(self, gone: Sequence[GenerationJob]) -> None:
        """Take jobs out and move the last rows into the holes."""
        if not gone:
            return
        self._unread = [job for job in self._unread if job not in gone]
        for row, job in enumerate(self._rows):
            # A prompt that was not read to its end has shown no logits yet.
            if job in gone and (job.is_broken or not job.is_read):
                self._cache.wipe(row)
        is_kept = [job not in gone for job in self._rows]
        order = _fill_holes(is_kept, num_decoding=sum(job.is_read for job in self._rows))
        self._rows = [self._rows[i] for i in order]
        self._cache.arrange(order, longest=max((job.num_cached for job in self._rows), default=0))

    def next_readers(self) -> list[GenerationJob]:
        """Choose the jobs whose prompts the next pass reads: a long one alone, or as many whole ones as fit."""
        if self._rows and not self._rows[-1].is_read:
            return self._rows[-1:]
        if self._unread and len(self._unread[0].prompt) > self._limits.max_step_tokens:
            return self._unread[:1]
        room = self._limits.max_step_tokens
        readers = []
        for job in self._unread:
            room -= len(job.prompt)
            if room < 0:
                break
            readers.append(job)
        return readers

    def read_prompts(self, readers: Sequence[GenerationJob]) -> Step:
        """Read the prompts of ``next_readers``, or a piece of one; give the first tokens of those that are read."""
        first = readers[0]
        if first in self._unread:
            self._unread = self._unread[len(readers) :]
            self._rows += readers
        if len(first.prompt) > self._limits.max_step_tokens:
            return self._read_piece(first)
        rows = range(len(self._rows) - len(readers), len(self._rows))
        logits_BV = self._passes.read([Segment.of_prompt(job.prompt) for job in readers], self._cache, rows)
        for job in readers:
            job.num_cached = len(job.prompt)
        return list(zip(readers, choose_tokens(logits_BV, [job.sampler for job in readers]), strict=True))

    def decoders(self) -> list[GenerationJob]:
        """Choose the jobs that the next decoding pass serves."""
        return list(takewhile(lambda job: job.is_read, self._rows))

    def decode(self, decoders: Sequence[GenerationJob]) -> Step:
        """Give each of ``decoders`` its next token."""
        logits_BV = self._passes.step(
            [job.last_token for job in decoders], [job.num_cached for job in decoders], self._cache
        )
        for job in decoders:
            job.num_cached += 1
        return list(zip(decoders, choose_tokens(logits_BV, [job.sampler for job in decoders]), strict=True))

    def _read_piece(self, job: GenerationJob) -> Step:
        start = job.num_cached
        piece = job.prompt[start : start + self._limits.max_step_tokens]
        logits_1V = self._passes.extend(
            Segment.of_prompt(piece, start), self._cache, row=len(self._rows) - 1, start=start
        )
        job.num_cached += len(piece)
        return [(job, token) for token in choose_tokens(logits_1V, [job.sampler])] if job.is_read else []


def _fill_holes(is_kept: Sequence[bool], *, num_decoding: int) -> list[int]:
    """Order the kept rows without gaps, moving few: decoding rows stay in front of the one that is being read."""
    decoding = [i for i in range(num_decoding) if is_kept[i]]
    reading = [i for i in range(num_decoding, len(is_kept)) if is_kept[i]]
    movers = [i for i in decoding if i >= len(decoding)]
    return [i if is_kept[i] else movers.pop() for i in range(len(decoding))] + reading
