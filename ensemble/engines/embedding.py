"""Embeddings of texts: several short texts in one forward pass, a long one in pieces.

Axes: Q tokens, D hidden width.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Collection

    from ensemble.engines.forward_passes import ForwardPasses
    from ensemble.engines.jobs import EmbeddingJob, Job
    from ensemble.engines.limits import Limits
    from ensemble.engines.slot_cache import SlotCache


class EmbeddingQueue:
    """The embedding requests that are being read, in order; each text's vector is the mean of its tokens' states."""

    def __init__(self, passes: ForwardPasses, limits: Limits) -> None:
        self._passes = passes
        self._limits = limits
        self._jobs: deque[EmbeddingJob] = deque()
        self._cache: SlotCache | None = None
        self._num_read = 0
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
            self._forget_text()
        self._jobs = deque(job for job in self._jobs if job not in gone)

    def advance(self) -> list[EmbeddingJob]:
        """Run one forward pass; give the jobs that took part, finished ones among them."""
        first = self._jobs[0]
        text = first.texts[len(first.vectors)]
        if len(text) > self._limits.max_step_tokens:
            self._read_piece(first, text)
            readers = [first]
        else:
            readers = self._read_whole_texts()
        while self._jobs and len(self._jobs[0].vectors) == len(self._jobs[0].texts):
            self._jobs.popleft()
        return readers

    def _read_whole_texts(self) -> list[EmbeddingJob]:
        fitting = self._choose_texts()
        states = self._passes.read_states([text for _, text in fitting])
        for (job, _), states_QD in zip(fitting, states, strict=True):
            job.vectors.append(_normalise(states_QD.sum(0)))
        return list(dict.fromkeys(job for job, _ in fitting))

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

    def _read_piece(self, job: EmbeddingJob, text: tuple[int, ...]) -> None:
        if self._cache is None:
            self._cache = self._passes.new_cache(max_rows=1, max_tokens=self._limits.max_context)
        piece = text[self._num_read : self._num_read + self._limits.max_step_tokens]
        sum_D = self._passes.extend_states(piece, self._cache, start=self._num_read).sum(0)
        self._sum_D = sum_D if self._sum_D is None else self._sum_D + sum_D
        self._num_read += len(piece)
        if self._num_read == len(text):
            job.vectors.append(_normalise(self._sum_D))
            self._forget_text()

    def _forget_text(self) -> None:
        self._cache, self._num_read, self._sum_D = None, 0, None


def _normalise(sum_D: torch.Tensor) -> tuple[float, ...]:
    """Scale to norm 1, which makes the mean of the sum; a sum of zeros stays zero."""
    return tuple(functional.normalize(sum_D.double(), dim=0).tolist())
