"""What an evaluation says, as plain figures: the same for the terminal, the JSON file and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ensemble.calibration.outcomes import SureAnswers
from ensemble.calibration.statistics import Interval, ReliabilityBin

Measure = Literal["accuracy", "exact match", "chrF"]
"""``accuracy`` among choices; for texts ``exact match`` of normalised short answers, and mean chrF2; all in [0, 1]."""
SIGNIFICANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A mean over items with its 95 % interval: exact for shares, bootstrapped for chrF."""

    measure: Measure
    value: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A score against the best single member's on the same items; exact McNemar, or the paired bootstrap for chrF.

    ``num_gained`` items only this had right, ``num_lost`` only the member; both are None for chrF.
    """

    best_member: str
    difference: float
    num_gained: int | None
    num_lost: int | None
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFigures:
    """One member alone; an abstention is a wrong answer. Tokens and cost are means of its ballots.

    ``has_failed``: it gave no ballot on half of the items or more.
    """

    member: str
    family: str
    num_items: int
    num_abstained: int
    num_by_reason: Mapping[str, int]
    has_failed: bool
    scores: tuple[Score, ...]
    prompt_tokens: float
    completion_tokens: float
    cost: float
    latency_p50_s: float
    latency_p95_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyFigures:
    """One voting rule over the whole panel: uncalibrated, calibrated on other items, or as served.

    That is with the spec's weights, fitted on the other folds (``is_fitted``), or with the calibration that the spec
    names (``is_served``).
    ``ece_before`` is the calibration error of the independence formula; both errors are None when not fitted, and then
    there are no curve and no ``sure`` answers.
    """

    strategy: str
    is_fitted: bool
    is_served: bool
    score: Score
    comparison: Comparison
    ece_before: float | None
    ece_after: float | None
    reliability: tuple[ReliabilityBin, ...]
    sure: tuple[SureAnswers, ...]

    @property
    def title(self) -> str:
        """Name it in a few words."""
        if self.is_served:
            return f"{self.strategy}, as served"
        return f"{self.strategy}, {'calibrated' if self.is_fitted else 'uncalibrated'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavingFigures:
    """A way not to wait for everyone, against the full panel by the same strategy on the same items.

    ``saving`` is the share saved, in [0, 1]: of ballots waited for where votes are stopped, of the cost where members
    are asked in stages. ``num_changed`` items got another answer (None where only right and wrong were compared).
    ``is_refused``: it loses significantly, or too much.
    """

    way: Literal["lossless stop", "risk stop", "staged", "cascade"]
    strategy: str
    is_fitted: bool
    detail: str
    saving: float
    accuracy: float
    full_accuracy: float
    num_changed: int | None
    p_value: float | None
    is_refused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelFigures:
    """A smaller panel, or one member, that does as well as the whole one."""

    members: tuple[str, ...]
    strategy: str
    score: float
    cost_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the vote beats its best member by one measure, in figures and in a sentence.

    The best member is taken as it is or (``is_best_corrected``) with its own calibration, whichever is better.
    ``is_named`` says that the spec names this strategy, so that it was fixed before the items were seen; otherwise it
    is the best of ``num_tried``, and ``p_value`` is corrected for their number (Bonferroni). ``smaller`` do as well,
    the cheapest first.
    """

    measure: Measure
    is_gain: bool
    strategy: str
    is_named: bool
    is_fitted: bool
    is_served: bool
    score: float
    best_member: str
    best_member_score: float
    is_best_corrected: bool
    num_tried: int
    p_value: float
    smaller: tuple[PanelFigures, ...]
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFigures:
    """One data set. Matrices are members by members, in the panel's order.

    ``warnings`` are what a reader must know first: failed members, lines left out, what could not be calibrated.
    """

    name: str
    num_items: int
    num_left_out: int
    has_choices: bool
    warnings: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    members: tuple[MemberFigures, ...]
    disagreement: tuple[tuple[float, ...], ...]
    error_correlation: tuple[tuple[float, ...], ...]
    strategies: tuple[StrategyFigures, ...]
    savings: tuple[SavingFigures, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFigures:
    """The whole evaluation; ``cost_unit`` is what members' costs are counted in, an item."""

    ensemble: str
    members: tuple[str, ...]
    cost_unit: str
    made_by: str
    sets: tuple[SetFigures, ...]
