"""Scorings that are too long for one forward pass.

Axes: V vocabulary.
"""

from __future__ import annotations

from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING, cast

import torch

from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.engines.scoring import join_branches, leave_row, sum_logprobs

if TYPE_CHECKING:
    from collections.abc import Collection

    from ensemble.engines.block_pool import CacheRow
    from ensemble.engines.jobs import ChoiceTree, Job, ScoringJob
    from ensemble.engines.limits import Limits
    from ensemble.engines.paged_cache import PagedCache
    from ensemble.engines.scoring import Choices, TreeSums


class LongScoringQueue:
    """The long scorings in order of arrival; the first alone is read."""

    def __init__(self, cache: PagedCache, limits: Limits) -> None:
        self._cache = cache
        self._limits = limits
        self._queue: deque[LongScoring] = deque()

    @property
    def jobs(self) -> list[ScoringJob]:
        """All that are not finished."""
        return [long.job for long in self._queue]

    @property
    def needs_room(self) -> bool:
        """Whether the first has no row for what it reads next."""
        return bool(self._queue) and not self._queue[0].has_row

    def claim_room(self) -> bool:
        """Get a row for the first; False while there is no room."""
        return self._queue[0].claim_room()

    def add(self, job: ScoringJob) -> None:
        """Take in a job whose tokens are known."""
        self._queue.append(LongScoring(job, self._cache, self._limits))

    def drop(self, gone: Collection[Job]) -> None:
        """Take jobs out and give their rows back."""
        for long in self._queue:
            if long.job in gone:
                long.leave()
        self._queue = deque(long for long in self._queue if long.job not in gone)

    def choose(self) -> list[ScoringJob]:
        """Choose the first, when it has a row."""
        return [self._queue[0].job] if self._queue and self._queue[0].has_row else []

    def advance(self, passes: ForwardPasses) -> TreeSums | None:
        """Run one forward pass of the first; give its sums, and let it go, after its last."""
        sums = self._queue[0].advance(passes)
        if sums is not None:
            self._queue.popleft()
        return sums


class LongScoring:
    """A scoring request that is too long for one forward pass.

    A tree after the other, its prompt is read in pieces into a cache row; then its choices follow in groups, each group
    seeing the prompt, and each choice itself, only. ``limits`` bound each pass, except that one choice is never split.
    """

    def __init__(self, job: ScoringJob, cache: PagedCache, limits: Limits) -> None:
        self.job = job
        self._cache = cache
        self._limits = limits
        self._sums: TreeSums = [[]]
        self._row: CacheRow | None = None
        self._first_logits_1V: torch.Tensor | None = None

    @property
    def has_row(self) -> bool:
        """Whether there is a place in the cache for the tree that is read."""
        return self._row is not None

    def claim_room(self) -> bool:
        """Get a row for the tree that is next; False while there is no room."""
        self._row = self._cache.open_row(self._tree.prompt, capacity=len(self._tree.prompt))
        return self._row is not None

    def advance(self, passes: ForwardPasses) -> TreeSums | None:
        """Run one forward pass, for which there must be a row; return the sums after the last."""
        tree, row = self._tree, cast("CacheRow", self._row)
        if self._first_logits_1V is None:
            self._read_prompt(tree, row, passes)
            return None
        self._score_group(tree, row, self._first_logits_1V, passes)
        if len(self._sums[-1]) < len(tree.choices):
            return None
        leave_row(self._cache, row, tree, self._sums[-1])
        self._row, self._first_logits_1V = None, None
        if len(self._sums) == len(self.job.trees):
            return self._sums
        self._sums.append([])
        return None

    def leave(self) -> None:
        """Give the row back before the end."""
        if self._row is not None:
            self._cache.close_row(self._row, is_sound=not self.job.is_broken)
            self._row = None

    @property
    def _tree(self) -> ChoiceTree:
        return self.job.trees[len(self._sums) - 1]

    def _read_prompt(self, tree: ChoiceTree, row: CacheRow, passes: ForwardPasses) -> None:
        piece = tree.prompt[row.num_tokens : row.num_tokens + self._limits.max_step_tokens]
        logits_1V = passes.read([Segment.of_prompt(piece, row.num_tokens)], self._cache, [row])
        self.job.is_broken |= bool(logits_1V.isnan().any())
        if row.num_tokens == len(tree.prompt):
            self._first_logits_1V = logits_1V

    def _score_group(
        self, tree: ChoiceTree, row: CacheRow, first_logits_1V: torch.Tensor, passes: ForwardPasses
    ) -> None:
        group = self._next_group(tree)
        logits_NV = first_logits_1V
        if any(len(choice) > 1 for choice in group):
            fed_NV = passes.read([join_branches(group, len(tree.prompt))], self._cache, [row])
            logits_NV = torch.cat([logits_NV, fed_NV])
        self._sums[-1] += sum_logprobs(logits_NV, [(0, group)])[0]

    def _next_group(self, tree: ChoiceTree) -> Choices:
        limits = self._limits
        room = min(limits.max_step_tokens, limits.max_outputs, limits.max_context - len(tree.prompt))
        choices = tree.choices[len(self._sums[-1]) :]
        num_fitting = sum(end <= room for end in accumulate(len(choice) - 1 for choice in choices))
        return choices[: max(1, num_fitting)]
