"""Embeddings of texts: several short texts in one forward pass, a long one in pieces.

Axes: Q tokens, D hidden width.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from ensemble.engines.forward_passes import Segment

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ensemble.engines.block_pool import CacheRow
    from ensemble.engines.forward_passes import ForwardPasses
    from ensemble.engines.jobs import EmbeddingJob, Job
    from ensemble.engines.limits import Limits
    from ensemble.engines.paged_cache import PagedCache


class EmbeddingQueue:
    """The embedding requests that are being read, in order; each text's vector is the mean of its tokens' states."""

    def __init__(self, passes: ForwardPasses, cache: PagedCache, limits: Limits) -> None:
        self._passes = passes
        self._cache = cache
        self._limits = limits
        self._jobs: deque[EmbeddingJob] = deque()
        self._row: CacheRow | None = None
        self._sum_D: torch.Tensor | None = None

    @property
    def jobs(self) -> list[EmbeddingJob]:
        """All that are not finished."""
        return list(self._jobs)

    def add(self, job: EmbeddingJob) -> None:
        """Take in a job whose tokens are known."""
        self._jobs.append(job)

    def drop(self, gone: Collection[Job]) -> None:
        """Take jobs out; a half-read text of the first is forgotten."""
        if self._jobs and self._jobs[0] in gone:
            self._forget_text(is_sound=not self._jobs[0].is_broken)
        self._jobs = deque(job for job in self._jobs if job not in gone)

    @property
    def needs_room(self) -> bool:
        """Whether the text that is next is too long for a pass and has no row yet."""
        return self._row is None and bool(self._jobs) and len(_next_text(self._jobs[0])) > self._limits.max_step_tokens

    def claim_room(self) -> bool:
        """Get a row for the text that is next; False while there is no room."""
        self._row = self._cache.open_row((), capacity=len(_next_text(self._jobs[0])))
        return self._row is not None

    def choose(self) -> list[EmbeddingJob]:
        """Give the jobs that the next forward pass serves."""
        return [self._jobs[0]] if self._row else list(dict.fromkeys(job for job, _ in self._choose_texts()))

    def read(self, readers: Sequence[EmbeddingJob]) -> list[EmbeddingJob]:
        """Run one forward pass for the chosen jobs; give those that are finished."""
        if self._row is not None:
            self._read_piece(readers[0], self._row)
        else:
            self._read_whole_texts()
        finished = [job for job in readers if len(job.vectors) == len(job.texts)]
        self._jobs = deque(job for job in self._jobs if job not in finished)
        return finished

    def _read_whole_texts(self) -> None:
        fitting = self._choose_texts()
        states = self._passes.read_states([Segment.of_text(text) for _, text in fitting])
        for (job, _), states_QD in zip(fitting, states, strict=True):
            job.vectors.append(_normalise(states_QD.sum(0)))

    def _choose_texts(self) -> list[tuple[EmbeddingJob, tuple[int, ...]]]:
        """Choose the next texts, in order, that fit one pass together: at least one does."""
        room = self._limits.max_step_tokens
        chosen: list[tuple[EmbeddingJob, tuple[int, ...]]] = []
        for job in self._jobs:
            for text in job.texts[len(job.vectors) :]:
                room -= len(text)
                if room < 0:
                    return chosen
                chosen.append((job, text))
        return chosen

    def _read_piece(self, job: EmbeddingJob, row: CacheRow) -> None:
        text = _next_text(job)
        piece = text[row.num_tokens : row.num_tokens + self._limits.max_step_tokens]
        segment = Segment.of_text(piece, row.num_tokens)
        sum_D = self._passes.read_states([segment], self._cache, [row])[0].sum(0)
        self._sum_D = sum_D if self._sum_D is None else self._sum_D + sum_D
        job.is_broken |= not bool(sum_D.isfinite().all())
        if row.num_tokens == len(text):
            job.vectors.append(_normalise(self._sum_D))
            self._forget_text(is_sound=not job.is_broken)

    def _forget_text(self, *, is_sound: bool) -> None:
        if self._row is not None:
            self._cache.close_row(self._row, is_sound=is_sound)
        self._row, self._sum_D = None, None


def _next_text(job: EmbeddingJob) -> tuple[int, ...]:
    return job.texts[len(job.vectors)]


def _normalise(sum_D: torch.Tensor) -> tuple[float, ...]:
    """Scale to norm 1, which makes the mean of the sum; a sum of zeros stays zero."""
    return tuple(functional.normalize(sum_D.double(), dim=0).tolist())
