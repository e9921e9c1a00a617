"""From logits to the next tokens, each request by its own parameters and its own randomness.

Axes: B rows, S sampled rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ensemble.generation import GenerationParameters

# Below this a float32 softmax is greedy anyway, and 0 divided by a vanishing temperature would not be a number.
_LEAST_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """How one request draws its tokens; ``generator`` None is greedy.

    One uniform number is drawn for each token, so a seed gives the same draws whatever else is in the batch, and the
    same completion as far as the logits are the same. Those of a checkpoint with few bits on a CPU are not quite:
    passes of few tokens and of many take different products, which round differently (``packed_int8``,
    ``packed_int4``).
    """

    temperature: float
    top_p: float
    generator: torch.Generator | None

    @classmethod
    def from_parameters(cls, parameters: GenerationParameters) -> Self:
        """Make the sampler of a request; without a seed the randomness is the machine's."""
        generator = None
        if parameters.temperature > 0:
            generator = torch.Generator()
            if parameters.seed is None:
                generator.seed()
            else:
                generator.manual_seed(parameters.seed % 2**63)
        return cls(temperature=parameters.temperature, top_p=parameters.top_p, generator=generator)


def choose_tokens(logits_BV: torch.Tensor, samplers: Sequence[Sampler]) -> list[tuple[int, float]]:
    """Choose each row's token; its log-probability is the unmodified distribution's, NaN where logits are broken."""
    token_B = logits_BV.argmax(-1)
    sampled = [i for i, sampler in enumerate(samplers) if sampler.generator is not None]
    if sampled:
        token_B[sampled] = _draw(logits_BV[sampled], [samplers[i] for i in sampled])
    logprob_B = logits_BV.gather(-1, token_B[:, None])[:, 0] - logits_BV.logsumexp(-1)
    tokens, logprobs = torch.stack([token_B.double(), logprob_B.double()]).tolist()
    return [(int(token), logprob) for token, logprob in zip(tokens, logprobs, strict=True)]


def shape_probabilities(logits_SV: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Give the probabilities that each row's token is drawn with, by its temperature and top_p, as float64.

    The logits may be of any height, so log-probabilities serve as well. A row's sum is 1, less what top_p took.
    """
    temperature_S1 = torch.tensor(
        [[max(sampler.temperature, _LEAST_TEMPERATURE)] for sampler in samplers], device=logits_SV.device
    )
    # Less the largest logit first: a low temperature must not overflow.
    probability_SV = ((logits_SV - logits_SV.amax(-1, keepdim=True)) / temperature_S1).softmax(-1).double()
    if any(sampler.top_p < 1 for sampler in samplers):
        probability_SV = _keep_nucleus(probability_SV, [sampler.top_p for sampler in samplers])
    return probability_SV


def draw_tokens(weight_SV: torch.Tensor, uniforms: Sequence[float]) -> torch.Tensor:
    """Draw each row's token with its weights, which need not sum to 1, from one uniform number a row."""
    cumulative_SV = weight_SV.cumsum(-1)
    uniform_S1 = torch.tensor(uniforms, dtype=torch.float64, device=weight_SV.device)[:, None]
    # The first token whose cumulated weight lies above the threshold: never one of weight 0.
    token_S1 = torch.searchsorted(cumulative_SV, uniform_S1 * cumulative_SV[:, -1:], right=True)
    return token_S1[:, 0].clamp_(max=weight_SV.shape[-1] - 1)


def _draw(logits_SV: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    uniforms = [torch.rand((), generator=sampler.generator, dtype=torch.float64).item() for sampler in samplers]
    return draw_tokens(shape_probabilities(logits_SV, samplers), uniforms)


def _keep_nucleus(probability_SV: torch.Tensor, top_ps: Sequence[float]) -> torch.Tensor:
    """Zero all but the likeliest tokens that together reach top_p (Holtzman et al. 2019, arXiv:1904.09751)."""
    top_p_S1 = torch.tensor(top_ps, dtype=torch.float64, device=probability_SV.device)[:, None]
    sorted_SV, order_SV = probability_SV.sort(dim=-1, descending=True, stable=True)
    is_beyond_SV = (sorted_SV.cumsum(-1) - sorted_SV >= top_p_S1) & (top_p_S1 < 1)
    is_beyond_SV[:, 0] = False
    return probability_SV.masked_fill(torch.zeros_like(is_beyond_SV).scatter_(-1, order_SV, is_beyond_SV), 0.0)
