"""What one trial found: a variant beside its original, in figures that are kept as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ensemble.variants.adjust_search import Measured
from ensemble.variants.figures import VariantFigures
from ensemble.variants.spread import Estimate
from ensemble.variants.turns import SpeedFigures

Measure = Literal["perplexity", "accuracy"]
Clock = Literal["wall", "processor"]


class Spread(BaseModel):
    """A figure and where it may lie: with 95 %, or between the slowest and the fastest round."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, estimate: Estimate) -> Spread:
        """Take an estimate over."""
        return cls(value=estimate.value, low=estimate.interval.low, high=estimate.interval.high)

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class TrialFigures(BaseModel):
    """A variant beside its original on one half of what there is to judge by.

    ``problem`` says why a variant came to nothing; its figures are None then. Speeds are by ``clock``;
    ``wall_speedup`` is that of decoding by the wall clock, whatever ``clock`` is. ``remarks`` are what a reader of the
    figures must know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file_bytes: int
    original_bytes: int
    problem: str = ""
    perplexity_ratio: Spread | None = None
    agreement: Spread | None = None
    kl: Spread | None = None
    accuracy: Spread | None = None
    original_accuracy: float | None = None
    decode_speedup: Spread | None = None
    prefill_speedup: Spread | None = None
    wall_speedup: Spread | None = None
    clock: Clock = "wall"
    remarks: tuple[str, ...] = ()

    def loss(self, measure: Measure) -> Spread | None:
        """Say by how much it is worse: the share by which perplexity is higher, or the accuracy that is lost."""
        if measure == "perplexity":
            ratio = self.perplexity_ratio
            return None if ratio is None else Spread(value=ratio.value - 1, low=ratio.low - 1, high=ratio.high - 1)
        if self.accuracy is None or self.original_accuracy is None:
            return None
        best, own = self.original_accuracy, self.accuracy
        return Spread(value=best - own.value, low=best - own.high, high=best - own.low)

    def to_measured(self, name: str, measure: Measure) -> Measured:
        """Give what the search goes by."""
        loss = self.loss(measure)
        if self.problem or loss is None:
            return Measured(name=name, num_bytes=self.file_bytes)
        speedup = self.decode_speedup.value if self.decode_speedup else 0.0
        return Measured(name=name, loss=loss.value, speedup=speedup, num_bytes=self.file_bytes)


def build_trial_figures(
    variant: VariantFigures, original: VariantFigures, *, batch: int | None, clock: Clock
) -> TrialFigures:
    """Take from a comparison what a trial is about; speeds are those of batches of one size, if any was timed."""
    decode, prefill = (_find_speedup(variant.speeds, phase, batch, clock) for phase in ("decode", "prefill"))
    has_all = variant.beside is not None and (decode is not None or batch is None)
    return TrialFigures(
        file_bytes=variant.sizes.file_bytes,
        original_bytes=original.sizes.file_bytes,
        problem="" if has_all else "; ".join(variant.missing) or "it could not be measured",
        perplexity_ratio=Spread.of(variant.beside.perplexity_ratio) if variant.beside else None,
        agreement=Spread.of(variant.beside.agreement) if variant.beside else None,
        kl=Spread.of(variant.beside.kl) if variant.beside else None,
        accuracy=Spread.of(variant.items.accuracy) if variant.items else None,
        original_accuracy=original.items.accuracy.value if original.items else None,
        decode_speedup=decode,
        prefill_speedup=prefill,
        wall_speedup=_find_speedup(variant.speeds, "decode", batch, "wall"),
        clock=clock,
        remarks=variant.missing,
    )


def _find_speedup(speeds: tuple[SpeedFigures, ...], phase: str, batch: int | None, clock: Clock) -> Spread | None:
    for one in speeds:
        speedup = one.speedup if clock == "wall" else one.cpu_speedup
        if (one.phase, one.batch) == (phase, batch) and speedup is not None:
            return Spread.of(speedup)
    return None
