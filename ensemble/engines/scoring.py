"""Log-probabilities of choices; a prompt is read once for all of its choices.

Axes: N outputs, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch

from ensemble.engines.forward_passes import ForwardPasses, Segment

if TYPE_CHECKING:
    from ensemble.engines.jobs import ChoiceTree, ScoringJob
    from ensemble.engines.limits import Limits
    from ensemble.engines.slot_cache import SlotCache

Choices = Sequence[Sequence[int]]
TreeSums = list[list[float]]
"""For each tree of a job, each choice's sum of its tokens' log-probabilities."""


def score_together(jobs: Sequence[ScoringJob], passes: ForwardPasses) -> list[TreeSums]:
    """Score several requests in one forward pass, prompts and choices packed as trees."""
    trees = [tree for job in jobs for tree in job.trees]
    logits_NV = passes.read([_build_tree(tree) for tree in trees], None)
    firsts = [0, *accumulate(tree.num_outputs for tree in trees)]
    sums = iter(_sum_logprobs(logits_NV, [(first, tree.choices) for first, tree in zip(firsts, trees, strict=False)]))
    return [[next(sums) for _ in job.trees] for job in jobs]


class LongScoring:
    """A scoring request that is too long for one forward pass.

    A tree after the other, its prompt is read in pieces into a cache row of the request's own; then its choices follow
    in groups, each group seeing the prompt, and each choice itself, only. ``limits`` bound each pass, except that one
    choice is never split.
    """

    def __init__(self, job: ScoringJob, cache: SlotCache, limits: Limits) -> None:
        self.job = job
        self._cache = cache
        self._limits = limits
        self._sums: TreeSums = [[]]
        self._num_read = 0
        self._first_logits_1V: torch.Tensor | None = None

    def advance(self, passes: ForwardPasses) -> TreeSums | None:
        """Run one forward pass; return the sums after the last."""
        tree = self.job.trees[len(self._sums) - 1]
        if self._first_logits_1V is None:
            self._read_prompt(tree, passes)
            return None
        self._score_group(tree, self._first_logits_1V, passes)
        if len(self._sums[-1]) < len(tree.choices):
            return None
        if len(self._sums) == len(self.job.trees):
            return self._sums
        self._sums.append([])
        self._num_read, self._first_logits_1V = 0, None
        return None

    def _read_prompt(self, tree: ChoiceTree, passes: ForwardPasses) -> None:
        piece = tree.prompt[self._num_read : self._num_read + self._limits.max_step_tokens]
        segment = Segment.of_prompt(piece, self._num_read)
        logits_1V = passes.extend(segment, self._cache, row=0, start=self._num_read)
        self._num_read += len(piece)
        if self._num_read == len(tree.prompt):
            self._first_logits_1V = logits_1V

    def _score_group(self, tree: ChoiceTree, first_logits_1V: torch.Tensor, passes: ForwardPasses) -> None:
        group = self._next_group(tree)
        logits_NV = first_logits_1V
        if any(len(choice) > 1 for choice in group):
            branches = _build_branches(group, len(tree.prompt))
            fed_NV = passes.extend(branches, self._cache, row=0, start=len(tree.prompt))
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


def _build_tree(tree: ChoiceTree) -> Segment:
    """Make a trunk of the prompt and a branch of each choice; the first output is the trunk's last token."""
    trunk, branches = Segment.of_prompt(tree.prompt), _build_branches(tree.choices, len(tree.prompt))
    return Segment(
        tokens=trunk.tokens + branches.tokens,
        positions=trunk.positions + branches.positions,
        branches=trunk.branches + branches.branches,
        outputs=tuple(range(len(tree.prompt) - 1, len(tree.prompt) + len(branches.tokens))),
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
