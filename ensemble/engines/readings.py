"""The requests that are answered by reading alone, and the forward passes that read them."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from ensemble.engines.embedding import EmbeddingQueue
from ensemble.engines.jobs import EmbeddingJob, Job, Outcome, ReadingJob, ScoringJob
from ensemble.engines.long_scoring import LongScoringQueue
from ensemble.engines.scoring import TreeSums, score_together
from ensemble.errors import MemberError
from ensemble.generation import Embeddings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ensemble.engines.forward_passes import ForwardPasses
    from ensemble.engines.limits import Limits
    from ensemble.engines.paged_cache import PagedCache
    from ensemble.engines.room_turns import RoomClaimant
    from ensemble.engines.scoring_rule import ScoringRule

Finished = list[tuple[ReadingJob, Outcome]]


class Readings:
    """Scorings that fit a forward pass, longer ones, and embeddings; each kind in order of arrival.

    A ``choose_`` method gives the jobs of the next pass of its kind, which the method beside it runs for them.
    """

    def __init__(
        self, passes: ForwardPasses, cache: PagedCache, limits: Limits, *, rule: ScoringRule, member: str
    ) -> None:
        self._passes = passes
        self._cache = cache
        self._limits = limits
        self._rule = rule
        self._member = member
        self._short: deque[ScoringJob] = deque()
        self._long = LongScoringQueue(cache, limits)
        self._embeddings = EmbeddingQueue(passes, cache, limits)

    @property
    def jobs(self) -> list[ReadingJob]:
        """All that are not finished."""
        return [*self._short, *self._long.jobs, *self._embeddings.jobs]

    @property
    def room_claimants(self) -> tuple[RoomClaimant, ...]:
        """Those that need room in the cache for longer than a pass."""
        return (self._long, self._embeddings)

    def add(self, job: ReadingJob) -> None:
        """Take in a job whose tokens are known."""
        if isinstance(job, EmbeddingJob):
            self._embeddings.add(job)
        elif job.num_fed <= self._limits.max_step_tokens and job.num_outputs <= self._limits.max_outputs:
            self._short.append(job)
        else:
            self._long.add(job)

    def drop(self, gone: Collection[Job]) -> None:
        """Take jobs out and give their rows back."""
        self._short = deque(job for job in self._short if job not in gone)
        self._long.drop(gone)
        self._embeddings.drop(gone)

    def choose_short(self) -> list[ScoringJob]:
        """Choose the scorings, longest waiting first, that one forward pass can serve."""
        limits = self._limits
        room, outputs, reusable = limits.max_step_tokens, limits.max_outputs, limits.max_reused_tokens
        being_read: set[bytes | None] = set()
        for count, job in enumerate(self._short):
            num_known, next_key = self._cache.match(job.trees[0].prompt)
            room -= job.num_fed
            outputs -= job.num_outputs
            reusable -= num_known
            # A prompt that begins as one of this pass does waits for the next, which finds that beginning read.
            if count and (min(room, outputs, reusable) < 0 or (next_key is not None and next_key in being_read)):
                return list(islice(self._short, count))
            being_read.add(next_key)
        return list(self._short)

    def score_short(self, jobs: Sequence[ScoringJob]) -> Finished:
        """Score these together, and give all their scores."""
        sums = score_together(jobs, self._passes, self._cache)
        self._short = deque(job for job in self._short if job not in jobs)
        return [(job, self._finish_scoring(job, of_job)) for job, of_job in zip(jobs, sums, strict=True)]

    def choose_long(self) -> list[ScoringJob]:
        """Choose the long scoring that has waited longest, when it has room in the cache."""
        return self._long.choose()

    def score_long(self, jobs: Sequence[ScoringJob]) -> Finished:
        """Go on with it; give its scores when this was its last pass."""
        sums = self._long.advance(self._passes)
        return [] if sums is None else [(jobs[0], self._finish_scoring(jobs[0], sums))]

    def choose_embeddings(self) -> list[EmbeddingJob]:
        """Choose the embeddings that the next pass serves."""
        return self._embeddings.choose()

    def embed(self, jobs: Sequence[EmbeddingJob]) -> Finished:
        """Read for these; give the vectors of those that are finished."""
        return [(job, self._finish_embedding(job)) for job in self._embeddings.read(jobs)]

    def _finish_scoring(self, job: ScoringJob, sums: TreeSums) -> Outcome:
        scores = self._rule.finish(job, sums)
        if all(map(math.isfinite, scores.logprobs)):
            return scores
        return MemberError(self._member, self._passes.fault)

    def _finish_embedding(self, job: EmbeddingJob) -> Outcome:
        if all(math.isfinite(value) for vector in job.vectors for value in vector):
            return Embeddings(vectors=tuple(job.vectors), prompt_tokens=job.num_tokens)
        return MemberError(self._member, "the model gave hidden states that are not numbers")
