"""Log-probabilities of choices; a prompt is read once for all of its choices.

Axes: N outputs, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, cast

import torch

from ensemble.engines.forward_passes import ForwardPasses, Segment

if TYPE_CHECKING:
    from ensemble.engines.block_pool import CacheRow
    from ensemble.engines.jobs import ChoiceTree, ScoringJob
    from ensemble.engines.limits import Limits
    from ensemble.engines.paged_cache import PagedCache

Choices = Sequence[Sequence[int]]
TreeSums = list[list[float]]
"""For each tree of a job, each choice's sum of its tokens' log-probabilities."""


def score_together(jobs: Sequence[ScoringJob], passes: ForwardPasses, cache: PagedCache) -> list[TreeSums]:
    """Score several requests in one forward pass, prompts and choices packed as trees.

    Prompts go through the cache, so that one that begins as an earlier one did is not read from its beginning. Where
    the cache has no room, a prompt is read without it.
    """
    trees = [tree for job in jobs for tree in job.trees]
    rows = [cache.open_row(tree.prompt, capacity=len(tree.prompt)) for tree in trees]
    sums: list[list[float]] = [[math.nan]] * len(trees)
    try:
        segments = [
            _build_tree(tree, 0 if row is None else row.num_tokens) for tree, row in zip(trees, rows, strict=True)
        ]
        logits_NV = passes.read(segments, cache, rows)
        firsts = accumulate((tree.num_outputs for tree in trees), initial=0)
        sums = _sum_logprobs(logits_NV, [(first, tree.choices) for first, tree in zip(firsts, trees, strict=False)])
    finally:
        for tree, row, sums_of_tree in zip(trees, rows, sums, strict=True):
            if row is not None:
                _leave_row(cache, row, tree, sums_of_tree)
    per_tree = iter(sums)
    return [[next(per_tree) for _ in job.trees] for job in jobs]


def _leave_row(cache: PagedCache, row: CacheRow, tree: ChoiceTree, sums: Sequence[float]) -> None:
    is_sound = all(map(math.isfinite, sums))
    if is_sound:
        cache.publish(row, tree.prompt)
    cache.close_row(row, is_sound=is_sound)


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

    def has_row(self) -> bool:
        """Get a place in the cache for the tree that is next, if there is none yet; False while it is full."""
        if self._row is None:
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
        _leave_row(self._cache, row, tree, self._sums[-1])
        self._row, self._first_logits_1V = None, None
        if len(self._sums) == len(self.job.trees):
            return self._sums
        self._sums.append([])
        return None

    def leave(self) -> None:
        """Give the row back before the end."""
        if self._row is not None:
            self._cache.close_row(self._row, is_sound=False)
            self._row = None

    @property
    def _tree(self) -> ChoiceTree:
        return self.job.trees[len(self._sums) - 1]

    def _read_prompt(self, tree: ChoiceTree, row: CacheRow, passes: ForwardPasses) -> None:
        piece = tree.prompt[row.num_tokens : row.num_tokens + self._limits.max_step_tokens]
        logits_1V = passes.read([Segment.of_prompt(piece, row.num_tokens)], self._cache, [row])
        if row.num_tokens == len(tree.prompt):
            self._first_logits_1V = logits_1V

    def _score_group(
        self, tree: ChoiceTree, row: CacheRow, first_logits_1V: torch.Tensor, passes: ForwardPasses
    ) -> None:
        group = self._next_group(tree)
        logits_NV = first_logits_1V
        if any(len(choice) > 1 for choice in group):
            fed_NV = passes.read([_build_branches(group, len(tree.prompt))], self._cache, [row])
            logits_NV = torch.cat([logits_NV, fed_NV])
        self._sums[-1] += _sum_logprobs(logits_NV, [(0, group)])[0]

    def _next_group(self, tree: ChoiceTree) -> Choices:
        limits = self._limits
        room = min(limits.max_step_tokens, limits.max_outputs, limits.max_context - len(tree.prompt))
        choices = tree.choices[len(self._sums[-1]) :]
        num_fitting = sum(end <= room for end in accumulate(len(choice) - 1 for choice in choices))
        return choices[: max(1, num_fitting)]


def _build_branches(choices: Choices, prompt_length: int) -> Segment:
    """Make a branch of each choice, all at the positions that follow the prompt; every token's logits are wanted."""
    tokens = tuple(token for choice in choices for token in choice[:-1])
    return Segment(
        tokens=tokens,
        positions=tuple(prompt_length + i for choice in choices for i in range(len(choice) - 1)),
        branches=tuple(n for n, choice in enumerate(choices, start=1) for _ in choice[:-1]),
        outputs=tuple(range(len(tokens))),
    )


def _build_tree(tree: ChoiceTree, start: int) -> Segment:
    """Make a trunk of the prompt from ``start`` on and a branch of each choice; its end is the first output."""
    trunk, branches = Segment.of_prompt(tree.prompt[start:], start), _build_branches(tree.choices, len(tree.prompt))
    num_trunk = len(trunk.tokens)
    return Segment(
        tokens=trunk.tokens + branches.tokens,
        positions=trunk.positions + branches.positions,
        branches=trunk.branches + branches.branches,
        outputs=tuple(range(num_trunk - 1, num_trunk + len(branches.tokens))),
    )


def _sum_logprobs(logits_NV: torch.Tensor, trees: Iterable[tuple[int, Choices]]) -> list[list[float]]:
    """Sum each choice's log-probabilities; a tree's outputs begin at its number with the prompt's last token."""
    spans: list[list[int]] = []
    outputs: list[int] = []
    tokens: list[int] = []
    for first, choices in trees:
        bounds = [len(tokens)]
        following = first + 1
        for choice in choices:
            outputs += [first, *range(following, following + len(choice) - 1)]
            tokens += choice
            following += len(choice) - 1
            bounds.append(len(tokens))
        spans.append(bounds)
    log_total_N = logits_NV.logsumexp(-1)
    output_T = torch.tensor(outputs, device=logits_NV.device)
    token_T = torch.tensor(tokens, device=logits_NV.device)
    logprobs: list[float] = (logits_NV[output_T, token_T] - log_total_N[output_T]).double().tolist()
    return [[sum(logprobs[start:end]) for start, end in pairwise(bounds)] for bounds in spans]
