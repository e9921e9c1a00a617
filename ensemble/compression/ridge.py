"""Ridge regression in closed form, from sums over any number of rows.

Axes: N rows, I input features, O output features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MOST_JUDGED = 64
"""Outputs by which a ridge is chosen: solving for all of them with every ridge takes longer than all the rest."""


@dataclass(slots=True, kw_only=True)
class Moments:
    """What ridge regression needs of inputs ``input_NI`` and targets ``target_NO``, however many rows there were."""

    gram_II: Tensor
    cross_IO: Tensor
    energy_O: Tensor
    """Sums of the targets' squares."""

    @classmethod
    def empty(cls, num_inputs: int, num_outputs: int) -> Moments:
        """Begin without rows, in float64."""
        return cls(
            gram_II=torch.zeros(num_inputs, num_inputs, dtype=torch.float64),
            cross_IO=torch.zeros(num_inputs, num_outputs, dtype=torch.float64),
            energy_O=torch.zeros(num_outputs, dtype=torch.float64),
        )

    def add(self, input_NI: Tensor, target_NO: Tensor) -> None:
        """Add rows; their own products are float32, the sums over many calls float64."""
        self.gram_II += input_NI.T @ input_NI
        self.cross_IO += input_NI.T @ target_NO
        self.energy_O += target_NO.double().square().sum(dim=0)

    def plus(self, other: Moments) -> Moments:
        """Give the moments of both sets of rows."""
        return Moments(
            gram_II=self.gram_II + other.gram_II,
            cross_IO=self.cross_IO + other.cross_IO,
            energy_O=self.energy_O + other.energy_O,
        )

    def thin(self, most: int) -> Moments:
        """Give the moments of every so many-th output, at most so many of them."""
        every = -(-len(self.energy_O) // most)
        return Moments(gram_II=self.gram_II, cross_IO=self.cross_IO[:, ::every], energy_O=self.energy_O[::every])

    def solve(self, ridge: float) -> Tensor:
        """Give ``weight_OI`` that minimises ``|target - input weight'|^2 + penalty |weight|^2``.

        The penalty is ``ridge`` times the mean of the gram's diagonal; inputs that are all zero give zero.
        """
        penalty = ridge * self.gram_II.diagonal().mean()
        if not penalty > 0.0:
            return torch.zeros_like(self.cross_IO.T)
        factor_II = torch.linalg.cholesky(self.gram_II + penalty * torch.eye(len(self.gram_II), dtype=torch.float64))
        return torch.cholesky_solve(self.cross_IO, factor_II).T

    def explain(self, weight_OI: Tensor) -> float:
        """Give the share of the targets' squares that a weight explains on these rows; below 0 where it harms."""
        weight_IO = weight_OI.T
        gain = (weight_IO * (2.0 * self.cross_IO - self.gram_II @ weight_IO)).sum().item()
        energy = self.energy_O.sum().item()
        return gain / energy if energy else 0.0


def choose_ridge(fit: Moments, judge: Moments, ridges: Sequence[float]) -> tuple[float, float]:
    """Give the ridge whose weight, fitted to some rows, explains most of others, and the share that it explains.

    Of many outputs some speak for all.
    """
    fit, judge = fit.thin(MOST_JUDGED), judge.thin(MOST_JUDGED)
    shares = [judge.explain(fit.solve(ridge)) for ridge in ridges]
    best = max(range(len(ridges)), key=shares.__getitem__)
    return ridges[best], shares[best]
