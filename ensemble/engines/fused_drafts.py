"""Tokens that one checkpoint proposes and the mixture keeps or replaces, so that what comes out is the mixture's.

A proposal x, drawn from q, is kept with probability min(1, p(x) / q(x)); else the token is drawn from what p has beyond
q, max(0, p - q) scaled to 1. Either way it is distributed as p (Leviathan et al. 2023, arXiv:2211.17192; Chen et al.
2023, arXiv:2302.01318). Both p and q are distributions that a request's temperature and top_p have shaped: p is the
mixture's, q the proposing checkpoint's. A greedy request gets the mixture's likeliest token, whatever was proposed.

Each position of a completion has its own three random numbers, whether it is reached in this block of proposals or in
another. So a seed gives the same completion however long the blocks are.

Axes: N positions, S sampled ones, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ensemble.engines.sampling import Sampler, draw_tokens, shape_probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNIFORMS_PER_TOKEN = 3
_MAX_JUDGED = 32
"""Sampled proposals judged at a time: each takes some twenty rows of the vocabulary's width meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One position's proposed token, and what it was drawn from.

    ``logprob_V`` is the checkpoint's own unmodified distribution, ``probability_V`` (float64) the shaped one; None for
    a greedy request. ``uniforms`` propose, keep and replace.
    """

    token: int
    logprob_V: torch.Tensor
    sampler: Sampler
    probability_V: torch.Tensor | None = None
    uniforms: tuple[float, ...] = ()


@dataclass(slots=True, kw_only=True)
class Drafting:
    """A completion's proposals that are not settled yet, and the random numbers of its next positions."""

    sampler: Sampler
    proposals: list[Proposal] = field(default_factory=list)
    _uniforms: list[tuple[float, ...]] = field(default_factory=list)

    def next_uniforms(self) -> tuple[float, ...]:
        """Give the random numbers of the position after the proposals; the same ones again until it is settled."""
        while len(self._uniforms) <= len(self.proposals):
            drawn = torch.rand(_UNIFORMS_PER_TOKEN, generator=self.sampler.generator, dtype=torch.float64)
            self._uniforms.append(tuple(drawn.tolist()))
        return self._uniforms[len(self.proposals)]

    def settle(self, num_tokens: int) -> None:
        """Forget the proposals; that many positions have got their tokens."""
        self.proposals.clear()
        del self._uniforms[:num_tokens]


def propose_tokens(logprob_BV: torch.Tensor, drafts: Sequence[Drafting]) -> None:
    """Add one proposal to each draft, from the proposing checkpoint's log-probabilities."""
    token_B = logprob_BV.argmax(-1)
    sampled = [i for i, draft in enumerate(drafts) if draft.sampler.generator is not None]
    uniforms = {i: drafts[i].next_uniforms() for i in sampled}
    shaped: dict[int, torch.Tensor] = {}
    if sampled:
        probability_SV = _shape(logprob_BV[sampled], [drafts[i].sampler for i in sampled])
        token_B[sampled] = draw_tokens(probability_SV, [uniforms[i][0] for i in sampled])
        shaped = dict(zip(sampled, probability_SV, strict=True))
    for i, (token, draft) in enumerate(zip(token_B.tolist(), drafts, strict=True)):
        draft.proposals.append(
            Proposal(
                token=token,
                logprob_V=logprob_BV[i],
                sampler=draft.sampler,
                probability_V=shaped.get(i),
                uniforms=uniforms.get(i, ()),
            )
        )


def settle_tokens(mixed_NV: torch.Tensor, proposals: Sequence[Proposal]) -> list[tuple[int, float]]:
    """Give every position's token and its log-probability in the mixture, NaN where that is broken.

    A position counts as long as the proposals before it are the tokens of their positions.
    """
    token_N = mixed_NV.argmax(-1)
    sampled = [n for n, proposal in enumerate(proposals) if proposal.probability_V is not None]
    for start in range(0, len(sampled), _MAX_JUDGED):
        judged = sampled[start : start + _MAX_JUDGED]
        token_N[judged] = _keep_or_replace(mixed_NV[judged], [proposals[n] for n in judged])
    logprob_N = mixed_NV.gather(-1, token_N[:, None])[:, 0]
    return list(zip(token_N.tolist(), logprob_N.tolist(), strict=True))


def _keep_or_replace(mixed_SV: torch.Tensor, proposals: Sequence[Proposal]) -> torch.Tensor:
    wanted_SV = _shape(mixed_SV, [proposal.sampler for proposal in proposals])
    proposed_SV = torch.stack([p.probability_V for p in proposals if p.probability_V is not None])
    token_S = torch.tensor([proposal.token for proposal in proposals], device=mixed_SV.device)
    _, keep_S, replace_S = zip(*(proposal.uniforms for proposal in proposals), strict=True)
    wanted_S, proposed_S = (p_SV.gather(-1, token_S[:, None])[:, 0] for p_SV in (wanted_SV, proposed_SV))
    is_kept_S = torch.tensor(keep_S, dtype=torch.float64, device=mixed_SV.device) * proposed_S < wanted_S
    beyond_SV = (wanted_SV - proposed_SV).clamp_(min=0)
    # Equal distributions leave nothing beyond, and reject nothing but by rounding.
    beyond_SV = torch.where(beyond_SV.sum(-1, keepdim=True) > 0, beyond_SV, wanted_SV)
    return torch.where(is_kept_S, token_S, draw_tokens(beyond_SV, replace_S))


def _shape(logprob_SV: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    probability_SV = shape_probabilities(logprob_SV, samplers)
    return probability_SV.div_(probability_SV.sum(-1, keepdim=True))
