"""A way to serve: who is on the panel, by which rule, who is asked when, and what may end the vote."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ensemble.voting.asking import AskPlan

Floats = NDArray[np.float64]
Stop = Literal["lossless", "risk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineup:
    """One candidate of the search; ``members`` are in the ensemble's order, ``asking`` None asks them all at once.

    ``stop`` risk ends votes by certificates too; lossless is always on.
    """

    members: tuple[str, ...]
    strategy: str
    asking: AskPlan | None = None
    stop: Stop = "lossless"

    @property
    def is_single(self) -> bool:
        """Whether one member answers alone."""
        return len(self.members) == 1

    @property
    def title(self) -> str:
        """Name the panel and the rule in a few words."""
        panel = " + ".join(self.members)
        return panel if self.is_single else f"{panel}, {self.strategy}"

    @property
    def manner(self) -> str:
        """Say who is asked when, and what ends the vote."""
        if self.is_single:
            return "alone"
        ending = "risk stop" if self.stop == "risk" else "lossless stop"
        if self.asking is None:
            return f"all at once, {ending}"
        order = ", then ".join(" + ".join(stage) for stage in self.asking.stages)
        if self.asking.rule == "cascade":
            return f"cascade: {order} unless the first agree"
        threshold = self.asking.min_confidence
        unless = f"unless {threshold:.2f} sure" if threshold < 1.0 else "unless decided"
        return f"staged: {order} {unless}"


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredLineup:
    """A lineup and what it came to on each item, in the items' order, by a calibration not fitted on that item.

    ``scores`` lie in [0, 1], ``costs`` are in the unit of the search's costs, ``latencies_s`` in seconds.
    """

    lineup: Lineup
    scores: Floats
    costs: Floats
    latencies_s: Floats

    @cached_property
    def accuracy(self) -> float:
        """The mean score: the share of right answers, or mean chrF2 for free texts."""
        return float(self.scores.mean())

    @cached_property
    def cost(self) -> float:
        """The mean cost of a request."""
        return float(self.costs.mean())

    @cached_property
    def latency_s(self) -> float:
        """The mean latency of a request."""
        return float(self.latencies_s.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may cost and take on average; None for no limit."""

    max_cost: float | None = None
    max_latency_s: float | None = None

    def allow(self, measured: MeasuredLineup) -> bool:
        """Say whether a lineup keeps both limits."""
        return self.excess(measured) <= 0.0

    def excess(self, measured: MeasuredLineup) -> float:
        """Say by what share of a limit a lineup is beyond it; 0 or less when it is not."""
        ratios = [
            figure / limit - 1.0 if limit > 0.0 else figure
            for figure, limit in ((measured.cost, self.max_cost), (measured.latency_s, self.max_latency_s))
            if limit is not None
        ]
        return max(ratios, default=0.0)
