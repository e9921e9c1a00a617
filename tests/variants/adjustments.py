"""Searches without models: trials whose figures follow from a recipe, ended in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from ensemble.compression.recipe import parse_recipe
from ensemble.variants.adjust import AdjustTask
from ensemble.variants.adjust_search import Aim, Limit
from ensemble.variants.adjust_template import Chain, Point
from ensemble.variants.figures import ComparisonFigures
from ensemble.variants.passages import JudgingText
from ensemble.variants.trial import TrialTask
from ensemble.variants.trial_figures import Spread, TrialFigures

TEXT = JudgingText(passages=tuple(f"passage {number}" for number in range(9)), digests=("judged",), name="text")


def build_point(name: str, sparsity: float) -> Point:
    """Describe a point; the seed makes a recipe of its own of each name's letter."""
    document = {"seed": ord(name[0]), "steps": [{"type": "prune_weights", "score": "magnitude", "sparsity": sparsity}]}
    recipe = parse_recipe(document, where="test")
    return Point(name=name, recipe=recipe)


def build_chain(name: str, *, num_points: int = 20) -> Chain:
    sparsities = [(number + 1) / (num_points + 1) for number in range(num_points)]
    return Chain(points=tuple(build_point(f"{name}{number}", one) for number, one in enumerate(sparsities)))


def build_task(
    *chains: Chain, limit: Limit | None = None, aim: Aim = "speed", at_once: int = 1, source_digest: str = "sha256:0"
) -> AdjustTask:
    trial = TrialTask(
        source="org/name",
        source_digest=source_digest,
        source_outline="sha256:o",
        calibration_digests=("learned",),
        text=TEXT,
    )
    return AdjustTask(
        chains=chains or (build_chain("a"), build_chain("b")),
        limit=limit or Limit(max_loss=0.25),
        aim=aim,
        trial=trial,
        at_once=at_once,
    )


def figures_of(point: Point) -> TrialFigures:
    """A share of zeros costs its square in perplexity, and buys itself in speed."""
    sparsity = float(point.recipe.model_dump()["steps"][0]["sparsity"])
    return build_figures(ratio=1 + sparsity**2, speedup=1 + sparsity, num_bytes=int(1e6 * (2 - sparsity)))


def build_figures(*, ratio: float, speedup: float, num_bytes: int = 1_000_000) -> TrialFigures:
    return TrialFigures(
        file_bytes=num_bytes,
        original_bytes=2_000_000,
        perplexity_ratio=Spread(value=ratio, low=ratio - 0.01, high=ratio + 0.01),
        decode_speedup=Spread(value=speedup, low=speedup - 0.05, high=speedup + 0.05),
    )


class FakeTrials:
    """A TrialRunner whose trials end in an order drawn by a seed; after so many it dies, if that is wanted."""

    def __init__(
        self, seed: int = 0, *, measure: Callable[[Point], TrialFigures] = figures_of, dies_after: int | None = None
    ) -> None:
        self.ended: list[str] = []
        self.most_at_once = 0
        self._draw = random.Random(seed)
        self._measure = measure
        self._dies_after = dies_after
        self._running: list[Point] = []

    def submit(self, point: Point) -> None:
        self._running.append(point)
        self.most_at_once = max(self.most_at_once, len(self._running))

    def next_ended(self) -> tuple[Point, TrialFigures]:
        if self._dies_after is not None and len(self.ended) >= self._dies_after:
            raise KeyboardInterrupt
        point = self._running.pop(self._draw.randrange(len(self._running)))
        self.ended.append(point.name)
        return point, self._measure(point)

    def compare(self, task: TrialTask, point: Point, folder: Path) -> ComparisonFigures:
        raise NotImplementedError
