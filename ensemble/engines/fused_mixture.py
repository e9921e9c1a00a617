"""How the distributions of several checkpoints become one.

Axes: N outputs, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Literal, Self

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Pooling = Literal["linear", "geometric"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The weighted arithmetic (``linear``) or the normalised weighted geometric mean of next-token probabilities.

    These are the linear and the logarithmic opinion pool (Genest and Zidek 1986, Statistical Science 1(1)). The
    weights sum to 1.
    """

    weights: tuple[float, ...]
    pooling: Pooling

    @classmethod
    def from_weights(cls, weights: Sequence[float], pooling: Pooling) -> Self:
        """Scale positive weights to a sum of 1."""
        total = math.fsum(weights)
        return cls(weights=tuple(weight / total for weight in weights), pooling=pooling)

    def mix(self, logprobs: Iterable[torch.Tensor]) -> torch.Tensor:
        """Mix log-probabilities logprob_NV, one tensor a checkpoint in the weights' order; one is held at a time.

        Returns:
            The mixture's log-probabilities, normalised; NaN in the rows where a checkpoint's are not numbers.
        """
        weighted = zip(logprobs, self.weights, strict=True)
        if self.pooling == "linear":
            return reduce(torch.logaddexp, (logprob_NV + math.log(weight) for logprob_NV, weight in weighted))
        return reduce(torch.add, (logprob_NV * weight for logprob_NV, weight in weighted)).log_softmax(-1)
