"""From sums of log-probabilities to the scores that a member's prompt format asks for."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from ensemble.engines.jobs import ChoiceTree, ScoringJob
from ensemble.errors import MemberRefusedError
from ensemble.generation import ChoiceScores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ensemble.engines.prompt_format import PromptFormat
    from ensemble.engines.scoring import TreeSums
    from ensemble.engines.token_encoder import TokenEncoder

MAX_PRIORS = 4096
"""Choices whose unconditional term is kept; the one asked for longest ago goes first."""


class ScoringRule:
    """Applies ``mean_logprob``, ``sum_logprob`` or ``pmi``; see PromptFormat for what they are.

    For ``pmi``, choices are measured against a text that says nothing. Their terms after it do not depend on the
    question, so they are read with a request's first pass and kept.

    Raises:
        MemberRefusedError: that text has no tokens, or one that the model lacks.
    """

    def __init__(self, prompt_format: PromptFormat, encoder: TokenEncoder, *, member: str) -> None:
        self._name = prompt_format.scoring
        self._prior_prompt = encoder.encode_pmi_prompt() if self._name == "pmi" else ()
        self._member = member
        self._priors: OrderedDict[tuple[int, ...], float] = OrderedDict()

    def begin(self, job: ScoringJob, tree: ChoiceTree, *, max_context: int) -> None:
        """Say what has to be read for a request.

        Raises:
            MemberRefusedError: a choice does not fit after the pmi prompt.
        """
        job.trees = (tree,)
        if self._name != "pmi":
            return
        job.known_priors = {choice: self._priors[choice] for choice in tree.choices if choice in self._priors}
        for choice in job.known_priors:
            self._priors.move_to_end(choice)
        unknown = tuple(dict.fromkeys(choice for choice in tree.choices if choice not in job.known_priors))
        if not unknown:
            return
        num_tokens = len(self._prior_prompt) + max(map(len, unknown))
        if num_tokens > max_context:
            raise MemberRefusedError(
                self._member, f"pmi needs {num_tokens} tokens at least and the context holds {max_context}"
            )
        job.trees += (ChoiceTree(prompt=self._prior_prompt, choices=unknown),)

    def finish(self, job: ScoringJob, sums: TreeSums) -> ChoiceScores:
        """Make the scores from the sums of the job's trees."""
        tree = job.trees[0]
        num_tokens = tuple(len(choice) for choice in tree.choices)
        return ChoiceScores(
            logprobs=self._score(job, sums, num_tokens), num_tokens=num_tokens, prompt_tokens=len(tree.prompt)
        )

    def _score(self, job: ScoringJob, sums: TreeSums, num_tokens: Sequence[int]) -> tuple[float, ...]:
        if self._name == "mean_logprob":
            return tuple(total / count for total, count in zip(sums[0], num_tokens, strict=True))
        if self._name == "sum_logprob":
            return tuple(sums[0])
        priors = dict(job.known_priors)
        if len(job.trees) > 1:
            new = dict(zip(job.trees[1].choices, sums[1], strict=True))
            self._keep(new)
            priors |= new
        return tuple(total - priors[choice] for total, choice in zip(sums[0], job.trees[0].choices, strict=True))

    def _keep(self, priors: dict[tuple[int, ...], float]) -> None:
        self._priors.update((choice, prior) for choice, prior in priors.items() if math.isfinite(prior))
        while len(self._priors) > MAX_PRIORS:
            self._priors.popitem(last=False)
