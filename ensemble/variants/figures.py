"""What a comparison says, as plain figures: the same for the terminal, the JSON file and the report."""

from __future__ import annotations

from dataclasses import dataclass

from ensemble.calibration.selection import Selection
from ensemble.variants.measure_text import TextComparison, TextFigures
from ensemble.variants.spread import Estimate
from ensemble.variants.turns import SpeedFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFigures:
    """A model on labelled items; the last two are beside its original, and None for an original.

    ``p_value`` is of McNemar's exact test of the two accuracies.
    """

    num_items: int
    num_abstained: int
    accuracy: Estimate
    choice_agreement: Estimate | None
    p_value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes: the weights' files, the weights as the engine holds them, and what its process grew by beside its cache.

    ``resident_bytes`` contains what the passes need; it is None where the engine did not run on this machine's memory.
    """

    file_bytes: int
    weight_bytes: int
    resident_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantFigures:
    """One checkpoint of the comparison; ``missing`` says why what is not there is not there."""

    name: str
    family: str
    reference: str
    digest: str
    is_original: bool
    made_by: str
    """The steps of its recipe, where a compression of ours wrote it."""
    sizes: Sizes
    text: TextFigures | None
    decoding_drift: float | None
    """How far, in nats a token, its distributions move when few tokens are read at a time, as in decoding.

    Quantised layers may multiply few rows by another kernel, which figures on text say nothing about."""
    beside: TextComparison | None
    items: ItemFigures | None
    speeds: tuple[SpeedFigures, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiversityFigures:
    """How alike some models err; matrices are models by models, in the order of ``names``.

    ``unit`` is what was right or wrong: a next token, a next word (where tokenizers differ), or an item. The
    correlation is phi; the disagreement the share on which exactly one of two was right, of items that on which they
    chose differently.
    """

    unit: str
    names: tuple[str, ...]
    num_places: int
    accuracy: tuple[float, ...]
    correlation: tuple[tuple[float, ...], ...]
    disagreement: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClonePair:
    """Two models of one family that err so much alike that a vote between them decides nothing."""

    first: str
    second: str
    unit: str
    correlation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelProposal:
    """What the search over panels found, or the ``problem`` that kept it from searching."""

    selection: Selection | None
    sentences: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonFigures:
    """The whole comparison; ``conditions`` say how it was measured, by name."""

    variants: tuple[VariantFigures, ...]
    conditions: dict[str, str | int | float]
    diversity: tuple[DiversityFigures, ...]
    clones: tuple[ClonePair, ...]
    remarks: tuple[str, ...]
    panel: PanelProposal | None

    def of_family(self, family: str) -> tuple[VariantFigures, ...]:
        """Give a family's checkpoints, the original first."""
        return tuple(one for one in self.variants if one.family == family)

    @property
    def families(self) -> tuple[str, ...]:
        """Name the families."""
        return tuple(dict.fromkeys(one.family for one in self.variants))
