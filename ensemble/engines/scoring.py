"""Log-probabilities of choices; a prompt is read once for all of its choices.

Axes: N outputs, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch

from ensemble.engines.forward_passes import ForwardPasses, Segment
from ensemble.generation import ChoiceScores

if TYPE_CHECKING:
    from ensemble.engines.jobs import ScoringJob
    from ensemble.engines.limits import Limits
    from ensemble.engines.slot_cache import SlotCache

Choices = Sequence[Sequence[int]]


def score_together(jobs: Sequence[ScoringJob], passes: ForwardPasses) -> list[ChoiceScores]:
    """Score several requests in one forward pass, prompts and choices packed as trees."""
    logits_NV = passes.read([_build_tree(job.prompt, job.choices) for job in jobs], None)
    firsts = [0, *accumulate(job.num_outputs for job in jobs)]
    sums = _sum_logprobs(logits_NV, [(first, job.choices) for first, job in zip(firsts, jobs, strict=False)])
    return [_build_scores(job, sums_of_job) for job, sums_of_job in zip(jobs, sums, strict=True)]


class LongScoring:
    """A scoring request that is too long for one forward pass.

    Its prompt is read in pieces into a cache row of its own; then its choices follow in groups, each group seeing the
    prompt, and each choice itself, only. ``limits`` bound each pass, except that one choice is never split.
    """

    def __init__(self, job: ScoringJob, cache: SlotCache, limits: Limits) -> None:
        self.job = job
        self._cache = cache
        self._max_step_tokens = limits.max_step_tokens
        self._max_group_tokens = min(limits.max_step_tokens, limits.max_outputs, limits.max_context - len(job.prompt))
        self._num_read = 0
        self._sums: list[float] = []
        self._first_logits_1V: torch.Tensor | None = None

    def advance(self, passes: ForwardPasses) -> ChoiceScores | None:
        """Run one forward pass; return the scores after the last."""
        prompt, choices = self.job.prompt, self.job.choices
        if self._first_logits_1V is None:
            piece = prompt[self._num_read : self._num_read + self._max_step_tokens]
            segment = Segment.of_prompt(piece, self._num_read)
            logits_1V = passes.extend(segment, self._cache, row=0, start=self._num_read)
            self._num_read += len(piece)
            if self._num_read == len(prompt):
                self._first_logits_1V = logits_1V
            return None
        group = self._next_group(choices[len(self._sums) :])
        logits_NV = self._first_logits_1V
        if any(len(choice) > 1 for choice in group):
            branches = _build_branches(group, len(prompt))
            fed_NV = passes.extend(branches, self._cache, row=0, start=len(prompt))
            logits_NV = torch.cat([logits_NV, fed_NV])
        self._sums += _sum_logprobs(logits_NV, [(0, group)])[0]
        return _build_scores(self.job, self._sums) if len(self._sums) == len(choices) else None

    def _next_group(self, choices: Choices) -> Choices:
        ends = list(accumulate(len(choice) - 1 for choice in choices))
        num_fitting = sum(end <= self._max_group_tokens for end in ends)
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


def _build_tree(prompt: Sequence[int], choices: Choices) -> Segment:
    """Make a trunk of the prompt and a branch of each choice; the first output is the trunk's last token."""
    trunk, branches = Segment.of_prompt(prompt), _build_branches(choices, len(prompt))
    return Segment(
        tokens=trunk.tokens + branches.tokens,
        positions=trunk.positions + branches.positions,
        branches=trunk.branches + branches.branches,
        outputs=tuple(range(len(prompt) - 1, len(prompt) + len(branches.tokens))),
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


def _build_scores(job: ScoringJob, sums: Sequence[float]) -> ChoiceScores:
    num_tokens = tuple(len(choice) for choice in job.choices)
    return ChoiceScores(
        logprobs=tuple(total / count for total, count in zip(sums, num_tokens, strict=True)),
        num_tokens=num_tokens,
        prompt_tokens=len(job.prompt),
    )
