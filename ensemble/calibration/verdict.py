"""Whether the vote beats its best member, and which smaller panel does as well: said plainly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations, takewhile

import numpy as np

from ensemble.calibration.counting import CountedSet, Way
from ensemble.calibration.figures import SIGNIFICANCE, Comparison, Measure, PanelFigures, Verdict
from ensemble.calibration.statistics import compare_means, mcnemar

EXHAUSTIVE_MEMBERS = 6
"""Up to here every smaller panel is counted; with more members, each alone, each pair, and all but one."""
MAX_LOSS = 0.01
"""A panel does as well when it scores at most this much less, and no test says that it is worse."""
MAX_PANELS = 4


def best_alone(counted: CountedSet, measure: Measure) -> Way:
    """Give the best single member, as it is or corrected by its own calibration: a gain must come from the vote."""
    return max(best_ways_alone(counted, measure), key=mean_score)


def best_ways_alone(counted: CountedSet, measure: Measure) -> tuple[Way, ...]:
    """Give every member alone, as it is or corrected, whichever is better."""
    corrected = {member_of(way): way for way in counted.corrected} if measure == "accuracy" else {}
    return tuple(max((way, corrected.get(member_of(way), way)), key=mean_score) for way in counted.alone[measure])


def mean_score(way: Way) -> float:
    """Give the mean score over items."""
    return float(np.mean(way.scores))


def member_of(way: Way) -> str:
    """Name the only member of a way that is a member alone."""
    return way.folds[0][0].panel[0].member


def compare(way: Way, best: Way) -> Comparison:
    """Compare a way with the best single member on the same items."""
    if way.measure == "chrF":
        difference = compare_means(way.scores, best.scores)
        return Comparison(
            best_member=member_of(best),
            difference=difference.mean,
            num_gained=None,
            num_lost=None,
            p_value=difference.p_value,
        )
    test = mcnemar(way.is_correct, best.is_correct)
    return Comparison(
        best_member=member_of(best),
        difference=(test.num_gained - test.num_lost) / len(way.outcomes),
        num_gained=test.num_gained,
        num_lost=test.num_lost,
        p_value=test.p_value,
    )


def judge_both(
    counted: CountedSet, measure: Measure, *, strategy: str, cost_by_member: Mapping[str, float]
) -> tuple[Verdict, ...]:
    """Judge the strategy that the spec names, and the best way of voting; nothing where none votes on the measure."""
    named = judge_named(counted, measure, strategy=strategy)
    is_gain_known = named is not None and named.is_gain
    best = judge(counted, measure, cost_by_member=cost_by_member, is_gain_known=is_gain_known)
    return tuple(verdict for verdict in (named, best) if verdict)


def judge(
    counted: CountedSet, measure: Measure, *, cost_by_member: Mapping[str, float], is_gain_known: bool = False
) -> Verdict | None:
    """Judge the best way of voting by one measure; None when no strategy votes on it.

    Ways fitted on other items come first: when there are any, the others do not stand for election. Where it is known
    that the ensemble gains (by the strategy that the spec names), no member alone is said to do as well.
    """
    tried = [way for way in counted.ways if way.measure == measure and way.is_fitted]
    tried = tried or [way for way in counted.ways if way.measure == measure]
    if not tried:
        return None
    way = max(tried, key=mean_score)
    smaller = find_smaller(way, best_ways_alone(counted, measure), cost_by_member=cost_by_member)
    verdict = replace(_verdict(way, best_alone(counted, measure), num_tried=len(tried)), smaller=smaller)
    num_items = len(way.outcomes)
    smaller_sentence = _smaller_sentence(verdict, num_items, is_gain_known=is_gain_known)
    return replace(verdict, sentence=f"{_gain_sentence(verdict, num_items)} {smaller_sentence}".strip())


def judge_named(counted: CountedSet, measure: Measure, *, strategy: str) -> Verdict | None:
    """Judge the strategy that the spec names, as it is served: fixed before the items were seen, it stands alone.

    That is with the calibration that the spec names, if it has one for such items. None when it does not vote on this
    measure, or cannot be counted from stored ballots.
    """
    named = [way for way in counted.ways if (way.strategy, way.measure, way.is_fitted) == (strategy, measure, False)]
    if counted.served and counted.served.measure == measure:
        named = [counted.served]
    if not named:
        return None
    verdict = replace(_verdict(named[0], best_alone(counted, measure), num_tried=1), is_named=True)
    return replace(verdict, sentence=_gain_sentence(verdict, len(named[0].outcomes)))


def _verdict(way: Way, best: Way, *, num_tried: int) -> Verdict:
    comparison = compare(way, best)
    p_value = min(1.0, comparison.p_value * num_tried)
    return Verdict(
        measure=way.measure,
        is_gain=comparison.difference > 0 and p_value < SIGNIFICANCE,
        strategy=way.strategy,
        is_named=False,
        is_fitted=way.is_fitted,
        is_served=way.is_served,
        score=mean_score(way),
        best_member=member_of(best),
        best_member_score=mean_score(best),
        is_best_corrected=best.is_fitted,
        num_tried=num_tried,
        p_value=p_value,
        smaller=(),
        sentence="",
    )


def find_smaller(way: Way, alone: Sequence[Way], *, cost_by_member: Mapping[str, float]) -> tuple[PanelFigures, ...]:
    """Find members and smaller panels that do as well as a way of voting, the cheapest first.

    They are sought on the items that they are measured on: a hint, for which `ensemble select` corrects.
    """
    whole = sum(cost_by_member.values()) or 1.0
    panel = tuple(voter.member for voter in way.folds[0][0].panel)
    candidates: list[tuple[Way, tuple[str, ...]]] = [(one, (member_of(one),)) for one in alone]
    candidates += [(way.on_panel(members), members) for members in _smaller_panels(panel) if len(members) > 1]
    found = [
        PanelFigures(
            members=members,
            strategy=candidate.strategy if len(members) > 1 else "",
            score=mean_score(candidate),
            cost_share=sum(cost_by_member[member] for member in members) / whole,
        )
        for candidate, members in candidates
        if _does_as_well(candidate, way)
    ]
    return tuple(sorted(found, key=lambda one: (one.cost_share, len(one.members), -one.score))[:MAX_PANELS])


def _smaller_panels(members: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    sizes: Iterable[int] = range(1, len(members))
    if len(members) > EXHAUSTIVE_MEMBERS:
        sizes = (1, 2, len(members) - 1)
    return chain.from_iterable(combinations(members, size) for size in sizes)


def _does_as_well(candidate: Way, way: Way) -> bool:
    if mean_score(candidate) < mean_score(way) - MAX_LOSS:
        return False
    if way.measure == "chrF":
        difference = compare_means(candidate.scores, way.scores)
        return difference.mean >= 0 or difference.p_value >= SIGNIFICANCE
    test = mcnemar(candidate.is_correct, way.is_correct)
    return test.is_gain or test.p_value >= SIGNIFICANCE


def _gain_sentence(verdict: Verdict, num_items: int) -> str:
    what = f"{verdict.measure} on {num_items} items"
    kind = "calibrated" if verdict.is_fitted or verdict.is_served else "uncalibrated"
    tried = f", corrected for {verdict.num_tried} strategies tried" if verdict.num_tried > 1 else ""
    alone = f"{verdict.best_member} alone{', with its own calibration,' if verdict.is_best_corrected else ''}"
    figures = (
        f"{verdict.strategy} ({kind}) has {figure(verdict.score)} {what},"
        f" {alone} {figure(verdict.best_member_score)} (p = {verdict.p_value:.2g}{tried})."
    )
    who = f"By the best {'calibrated ' if verdict.is_fitted else ''}strategy, the ensemble"
    if verdict.is_served:
        who = "As served, with the spec's strategy and calibration, the ensemble"
    elif verdict.is_named:
        who = "Uncalibrated, with the spec's weights and strategy, the ensemble"
    if verdict.is_gain:
        return f"{who} beats its best member: {figures}"
    is_loss = verdict.score < verdict.best_member_score and verdict.p_value < SIGNIFICANCE
    worse = " and is significantly worse" if is_loss else ""
    return f"{who} does NOT beat its best member{worse}: {figures}"


def _smaller_sentence(verdict: Verdict, num_items: int, *, is_gain_known: bool) -> str:
    told = []
    smaller = verdict.smaller
    if is_gain_known and not verdict.is_gain:
        smaller = tuple(one for one in smaller if len(one.members) > 1)
    elif not verdict.is_gain:
        told.append(f"As far as {num_items} items can tell, {verdict.best_member} alone does as well.")
    cheaper = list(takewhile(lambda one: verdict.is_gain or one.members != (verdict.best_member,), smaller))
    if cheaper:
        who = " + ".join(cheaper[0].members)
        how = f"{who} alone does" if len(cheaper[0].members) == 1 else f"The panel {who} does"
        share = f"at {cheaper[0].cost_share:.0%} of the whole panel's cost"
        told.append(f"{how} as well ({figure(cheaper[0].score)}), {share}.")
    elif verdict.is_gain:
        told.append("No single member and no smaller panel does as well as the whole.")
    return " ".join(told)


def figure(value: float) -> str:
    """Write a share so that three digits matter."""
    return f"{value:.3f}"
