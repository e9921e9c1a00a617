"""The search over stored votes: the lineup that pays off, what it is worth, and whether one member alone would do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ensemble.calibration.choice_optimism import CorrectedFigures, correct_optimism
from ensemble.calibration.lineup import Limits, MeasuredLineup
from ensemble.calibration.panel_lineups import PanelMeter
from ensemble.calibration.panel_search import Merit, Panel, SearchedPanels, search_panels
from ensemble.calibration.pareto import Axis, choose_lineup, pareto_front, price_of, rank_lineups
from ensemble.calibration.statistics import compare_means, mcnemar
from ensemble.errors import ConfigError

SIGNIFICANCE = 0.05
OnPanel = Callable[[int, int | None], None]
"""Hears how many panels are measured, and of how many; None while nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A lineup against the chosen one; ``p_value`` is two-sided and paired, not corrected for the choice."""

    measured: MeasuredLineup
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What the search found. Accuracies are of held-out items; ``corrected`` has the optimism of choosing taken out.

    ``front`` is sorted by price. ``best_single`` is the most accurate member, within the limits or not.
    ``cheapest_as_good`` costs least of those that are not significantly worse than the chosen one; None when that is
    the chosen one itself.
    """

    axis: Axis
    limits: Limits
    cost_unit: str
    num_items: int
    searched: SearchedPanels
    lineups: tuple[MeasuredLineup, ...]
    chosen: MeasuredLineup
    corrected: CorrectedFigures
    front: tuple[MeasuredLineup, ...]
    best_single: Rival
    cheapest_as_good: Rival | None

    @property
    def singles_on_front(self) -> tuple[str, ...]:
        """Members that nothing as cheap betters, the cheapest first."""
        return tuple(one.lineup.members[0] for one in self.front if one.lineup.is_single)


def select_lineup(
    meter: PanelMeter, limits: Limits, *, exhaustive_members: int, on_panel: OnPanel = lambda _done, _total: None
) -> Selection:
    """Measure panels and choose the most accurate lineup within the limits; of equals the cheaper.

    Raises:
        ConfigError: the votes cannot be calibrated, or no lineup keeps the limits.
    """
    members = [voter.member for voter in meter.voters]
    total = 2 ** len(members) - 1 if len(members) <= exhaustive_members else None
    measured_by_panel: dict[Panel, tuple[MeasuredLineup, ...]] = {}

    def merit_of(panel: Panel) -> Merit:
        measured_by_panel[panel] = meter.measure(panel)
        on_panel(len(measured_by_panel), total)
        return _merit(measured_by_panel[panel], limits)

    searched = search_panels(members, merit_of, exhaustive_members=exhaustive_members)
    axis: Axis = "latency" if limits.max_cost is None and limits.max_latency_s is not None else "cost"
    ranked = rank_lineups((one for measured in measured_by_panel.values() for one in measured), axis)
    chosen = choose_lineup(ranked, limits)
    if chosen is None:
        raise _nothing_allowed(ranked, limits)
    singles = [one for one in ranked if one.lineup.is_single]
    return Selection(
        axis=axis,
        limits=limits,
        cost_unit=meter.costs.unit,
        num_items=len(meter.items),
        searched=searched,
        lineups=tuple(ranked),
        chosen=chosen,
        corrected=correct_optimism(ranked, limits),
        front=pareto_front(ranked, axis),
        best_single=_against(max(singles, key=lambda one: one.accuracy), chosen),
        cheapest_as_good=_cheapest_as_good(ranked, chosen, axis),
    )


def _merit(lineups: Sequence[MeasuredLineup], limits: Limits) -> Merit:
    """Compare panels by their most accurate lineup that keeps the limits, else by how near to them they come."""
    allowed = [one for one in lineups if limits.allow(one)]
    if not allowed:
        return (-1.0, -min((limits.excess(one) for one in lineups), default=0.0))
    best = max(allowed, key=lambda one: (one.accuracy, -one.cost))
    return (best.accuracy, -best.cost)


def _nothing_allowed(ranked: Sequence[MeasuredLineup], limits: Limits) -> ConfigError:
    nearest = min(ranked, key=limits.excess)
    figures = f"costs {nearest.cost:.4g} and takes {nearest.latency_s * 1_000:.4g} ms"
    problem = f"no lineup keeps it; the nearest, {nearest.lineup.title} ({nearest.lineup.manner}), {figures}"
    return ConfigError("the limit", problem, "allow more")


def _cheapest_as_good(ranked: Sequence[MeasuredLineup], chosen: MeasuredLineup, axis: Axis) -> Rival | None:
    for one in ranked:
        if price_of(one, axis) >= price_of(chosen, axis):
            return None
        rival = _against(one, chosen)
        if rival.p_value >= SIGNIFICANCE:
            return rival
    return None


def _against(rival: MeasuredLineup, chosen: MeasuredLineup) -> Rival:
    """Test a pair: McNemar's exact test where items are right or wrong, else the paired bootstrap."""
    is_graded = any(((one.scores != 0.0) & (one.scores != 1.0)).any() for one in (rival, chosen))
    if is_graded:
        p_value = compare_means(chosen.scores, rival.scores).p_value
    else:
        p_value = mcnemar(chosen.scores == 1.0, rival.scores == 1.0).p_value
    return Rival(measured=rival, p_value=p_value)
