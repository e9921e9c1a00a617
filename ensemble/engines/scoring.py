"""Log-probabilities of choices; a prompt is read once for all of its choices.

Axes: N outputs, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch

from ensemble.engines.forward_passes import ForwardPasses, Segment

if TYPE_CHECKING:
    from ensemble.engines.block_pool import CacheRow
    from ensemble.engines.jobs import ChoiceTree, ScoringJob
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
            _join_tree(tree, 0 if row is None else row.num_tokens) for tree, row in zip(trees, rows, strict=True)
        ]
        logits_NV = passes.read(segments, cache, rows)
        firsts = accumulate((tree.num_outputs for tree in trees), initial=0)
        sums = sum_logprobs(logits_NV, [(first, tree.choices) for first, tree in zip(firsts, trees, strict=False)])
    finally:
        for tree, row, sums_of_tree in zip(trees, rows, sums, strict=True):
            if row is not None:
                leave_row(cache, row, tree, sums_of_tree)
    per_tree = iter(sums)
    return [[next(per_tree) for _ in job.trees] for job in jobs]


def leave_row(cache: PagedCache, row: CacheRow, tree: ChoiceTree, sums: Sequence[float]) -> None:
    """Give a prompt's row back, for later requests to find if its choices' sums are numbers."""
    is_sound = all(map(math.isfinite, sums))
    if is_sound:
        cache.publish(row, tree.prompt)
    cache.close_row(row, is_sound=is_sound)


def join_branches(choices: Choices, prompt_length: int) -> Segment:
    """Make a branch of each choice, all at the positions that follow the prompt; every token's logits are wanted."""
    tokens = tuple(token for choice in choices for token in choice[:-1])
    return Segment(
        tokens=tokens,
        positions=tuple(prompt_length + i for choice in choices for i in range(len(choice) - 1)),
        branches=tuple(n for n, choice in enumerate(choices, start=1) for _ in choice[:-1]),
        outputs=tuple(range(len(tokens))),
    )


def _join_tree(tree: ChoiceTree, start: int) -> Segment:
    """Make a trunk of the prompt from ``start`` on and a branch of each choice; its end is the first output."""
    trunk, branches = Segment.of_prompt(tree.prompt[start:], start), join_branches(tree.choices, len(tree.prompt))
    num_trunk = len(trunk.tokens)
    return Segment(
        tokens=trunk.tokens + branches.tokens,
        positions=trunk.positions + branches.positions,
        branches=trunk.branches + branches.branches,
        outputs=tuple(range(num_trunk - 1, num_trunk + len(branches.tokens))),
    )


def sum_logprobs(logits_NV: torch.Tensor, trees: Iterable[tuple[int, Choices]]) -> TreeSums:
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
