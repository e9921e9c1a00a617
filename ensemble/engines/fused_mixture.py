"""How the distributions of several checkpoints become one.

Axes: N outputs, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
        """Mix log-probabilities logprob_NV, one tensor a checkpoint in the weights' order.

        Returns:
            The mixture's log-probabilities, normalised; NaN in the rows where a checkpoint's are not numbers.
        """
        weighted = zip(logprobs, self.weights, strict=True)
        mixed_NV = self._weigh(*next(weighted))
        add = torch.logaddexp if self.pooling == "linear" else torch.add
        for logprob_NV, weight in weighted:
            # In its place: these are the largest tensors of a pass.
            add(mixed_NV, self._weigh(logprob_NV, weight), out=mixed_NV)
        return mixed_NV if self.pooling == "linear" else mixed_NV.log_softmax(-1)

    def _weigh(self, logprob_NV: torch.Tensor, weight: float) -> torch.Tensor:
        return logprob_NV + math.log(weight) if self.pooling == "linear" else logprob_NV * weight
