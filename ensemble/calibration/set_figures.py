"""From one data set's stored votes to its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ensemble.calibration.ballot_store import StoredEvaluation, StoredSet
from ensemble.calibration.call_costs import CallCosts, build_call_costs
from ensemble.calibration.counting import FAILED_SHARE, CountedSet, CountOptions, Way, count_set
from ensemble.calibration.figures import (
    EvaluationFigures,
    MemberFigures,
    Score,
    SetFigures,
    StrategyFigures,
)
from ensemble.calibration.outcomes import sure_answers
from ensemble.calibration.savings import measure_savings, stopping_ways
from ensemble.calibration.statistics import (
    Floats,
    accuracy_interval,
    compare_means,
    disagreement,
    error_correlation,
    reliability_curve,
)
from ensemble.calibration.verdict import best_alone, compare, judge_both, mean_score
from ensemble.voting.ballot import Abstention, Ballot
from ensemble.voting.registry import STRATEGY_NAMES, get_strategy
from ensemble.voting.short_answer import normalise_answer
from ensemble.voting.strategy import task_of

TOGETHER = "all sets with choices"


def build_figures(stored: StoredEvaluation, options: CountOptions) -> EvaluationFigures:
    """Work out everything."""
    num_parameters = {member.name: member.num_parameters for member in stored.manifest.members}
    left_out = {one.name: one.num_left_out for one in stored.manifest.sets}
    left_out[TOGETHER] = sum(left_out[one.name] for one in _with_choices(stored.sets))
    units, sets = set(), []
    for one in (*stored.sets, *_together(stored.sets)):
        costs = build_call_costs(one.item_votes, num_parameters)
        units.add(costs.unit)
        sets.append(build_set_figures(one, options, costs=costs, num_left_out=left_out.get(one.name, 0)))
    return EvaluationFigures(
        ensemble=stored.manifest.ensemble,
        members=stored.manifest.member_names,
        cost_unit=units.pop(),
        made_by=stored.manifest.made_by,
        sets=tuple(sets),
    )


def _together(sets: Sequence[StoredSet]) -> tuple[StoredSet, ...]:
    """Take all sets with choices as one, where there are several: what one ensemble does that serves them all."""
    with_choices = _with_choices(sets)
    if len(with_choices) < 2:
        return ()
    item_votes = tuple(
        replace(votes, item=replace(votes.item, item_id=f"{one.name}/{votes.item.item_id}"))
        for one in with_choices
        for votes in one.item_votes
    )
    return (StoredSet(name=TOGETHER, item_votes=item_votes),)


def _with_choices(sets: Sequence[StoredSet]) -> list[StoredSet]:
    return [one for one in sets if one.item_votes[0].item.choices]


def build_set_figures(stored: StoredSet, options: CountOptions, *, costs: CallCosts, num_left_out: int) -> SetFigures:
    """Work out one data set's figures."""
    counted = count_set(stored.item_votes, options)
    has_choices = bool(stored.item_votes[0].item.choices)
    named = options.strategy_by_kind[has_choices]
    verdicts = tuple(
        verdict
        for measure in counted.measures
        for verdict in judge_both(counted, measure, strategy=named, cost_by_member=costs.mean_by_member)
    )
    best = next((one.strategy for one in verdicts if one.measure != "chrF" and not one.is_named), "")
    savings = tuple(
        saving
        for way in stopping_ways(counted, strategy=named, best=best)
        for saving in measure_savings(way, cost_by_member=costs.mean_by_member)
    )
    members = tuple(
        _member_figures(place, counted, options=options, costs=costs) for place in range(len(options.voters))
    )
    judged = counted.alone[counted.measures[0]]
    return SetFigures(
        name=stored.name,
        num_items=len(stored.item_votes),
        num_left_out=num_left_out,
        has_choices=has_choices,
        warnings=(*_warnings(counted, members, num_left_out=num_left_out), *_unmeasured(counted, named)),
        verdicts=verdicts,
        members=members,
        disagreement=_rows(disagreement([_answers(way) for way in judged])),
        error_correlation=_rows(error_correlation([_correctness(way) for way in judged])),
        strategies=tuple(
            _strategy_figures(way, counted, options)
            for way in (*counted.ways, *((counted.served,) if counted.served else ()))
        ),
        savings=savings,
    )


def _member_figures(place: int, counted: CountedSet, *, options: CountOptions, costs: CallCosts) -> MemberFigures:
    voter = options.voters[place]
    votes = [item.votes[place] for item in counted.items]
    ballots = [vote for vote in votes if isinstance(vote, Ballot)]
    reasons = Counter(vote.reason.value for vote in votes if isinstance(vote, Abstention))
    latencies_s = [ballot.latency_s for ballot in ballots] or [0.0]
    return MemberFigures(
        member=voter.member,
        family=voter.family,
        num_items=len(votes),
        num_abstained=len(votes) - len(ballots),
        num_by_reason=dict(sorted(reasons.items())),
        has_failed=voter.member in counted.failed,
        scores=tuple(_score(counted.alone[measure][place]) for measure in counted.measures),
        prompt_tokens=_mean([ballot.prompt_tokens for ballot in ballots]),
        completion_tokens=_mean([ballot.completion_tokens for ballot in ballots]),
        cost=costs.mean_by_member[voter.member],
        latency_p50_s=float(np.quantile(latencies_s, 0.5)),
        latency_p95_s=float(np.quantile(latencies_s, 0.95)),
    )


def _score(way: Way) -> Score:
    if way.measure == "chrF":
        spread = compare_means(way.scores, [0.0] * len(way.scores))
        return Score(measure=way.measure, value=spread.mean, interval=spread.interval)
    interval = accuracy_interval(sum(way.is_correct), len(way.is_correct))
    return Score(measure=way.measure, value=mean_score(way), interval=interval)


def _strategy_figures(way: Way, counted: CountedSet, options: CountOptions) -> StrategyFigures:
    record = counted.calibration.strategies[way.strategy] if way.is_fitted and counted.calibration else None
    sure = [(outcome.confidence, outcome.is_correct) for outcome in way.outcomes if outcome.confidence is not None]
    is_drawn = bool(record and sure)
    return StrategyFigures(
        strategy=way.strategy,
        is_fitted=way.is_fitted,
        is_served=way.is_served,
        score=_score(way),
        comparison=compare(way, best_alone(counted, way.measure)),
        ece_before=record.held_out.ece_before if record else None,
        ece_after=record.held_out.ece_after if record else None,
        reliability=reliability_curve(*zip(*sure, strict=True)) if is_drawn else (),
        sure=sure_answers(way.outcomes, withhold_below=options.withhold_below) if is_drawn else (),
    )


def _warnings(counted: CountedSet, members: Sequence[MemberFigures], *, num_left_out: int) -> tuple[str, ...]:
    warnings = []
    for one in members:
        if one.num_abstained:
            reasons = ", ".join(f"{reason} {count}" for reason, count in one.num_by_reason.items())
            silence = f"{one.member} gave no ballot on {one.num_abstained} of {one.num_items} items ({reasons})"
            ending = (
                f": it FAILED on {FAILED_SHARE:.0%} or more, and takes no part in what is calibrated"
                if one.has_failed
                else ", which count as wrong answers of its own"
            )
            warnings.append(f"{silence}{ending}.")
    if num_left_out:
        warnings.append(f"{num_left_out} lines of the data could not be used and were left out.")
    if counted.problem:
        warnings.append(f"Nothing was calibrated: {counted.problem}.")
    return tuple(warnings)


def _unmeasured(counted: CountedSet, named: str) -> tuple[str, ...]:
    """Name what an ensemble could answer such items by and stored ballots cannot tell."""
    has_choices = bool(counted.items[0].item.choices)
    asking = [
        name
        for name in STRATEGY_NAMES
        if get_strategy(name).second_round and task_of(get_strategy(name), has_choices=has_choices) is not None
    ]
    warnings = []
    if asking:
        warnings.append(f"Not measured, since they ask models about the texts once more: {', '.join(asking)}.")
    if not counted.served and named not in {way.strategy for way in counted.ways if not way.is_fitted}:
        warnings.append(f"The spec's own strategy, {named}, is not judged as the spec has it: it was not measured so.")
    return tuple(warnings)


def _answers(way: Way) -> list[str | None]:
    return [None if outcome.answer is None else normalise_answer(outcome.answer) for outcome in way.outcomes]


def _correctness(way: Way) -> list[float]:
    return [float("nan") if outcome.decision is None else float(outcome.is_correct) for outcome in way.outcomes]


def _rows(matrix: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in matrix)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
