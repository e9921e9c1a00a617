"""What asking in stages would have saved on stored votes, at what accuracy, and whether it may be used."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ensemble.calibration.items import ItemVotes
from ensemble.calibration.outcomes import Outcome, VoteSetup, grade, question_of, votes_of
from ensemble.calibration.statistics import McNemar, mcnemar
from ensemble.errors import ConfigError
from ensemble.voting.asking import AskPlan, decide_stage, is_enough
from ensemble.voting.ballot import Vote
from ensemble.voting.decision import Decision
from ensemble.voting.registry import get_strategy
from ensemble.voting.strategy import Question, Strategy

THRESHOLDS = (1.0, 0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
MAX_FIRST = 2
"""Members in the first stage, at most."""
SIGNIFICANCE = 0.05
MAX_LOSS = 0.01
"""What saves may be seen to cost so much accuracy, as long as no test says that it is a loss."""
SetupFold = tuple[VoteSetup, Sequence[ItemVotes]]
"""A way to count votes, and items that it was not fitted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedFigures:
    """What a plan came to, against asking everyone on the same items.

    ``mean_asked`` members a request; ``saving`` is the share of the full panel's cost that was not spent, in [0, 1];
    ``comparison`` has items that only the plan (gained) and only the full panel (lost) had right. ``is_refused``: the
    plan loses significantly, or more than was allowed.
    """

    plan: AskPlan
    num_items: int
    mean_asked: float
    saving: float
    accuracy: float
    full_accuracy: float
    comparison: McNemar
    is_refused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What those asked so far come to; it is enough where the threshold is at most ``enough_at``."""

    outcome: Outcome
    enough_at: float


def build_plans(cheapest_first: Sequence[str]) -> tuple[AskPlan, ...]:
    """Give the plans in two stages that are worth measuring: one or two members first; a cascade needs two."""
    plans = []
    for num_first in range(1, min(MAX_FIRST, len(cheapest_first) - 1) + 1):
        stages = (tuple(cheapest_first[:num_first]), tuple(cheapest_first[num_first:]))
        plans.append(AskPlan(stages=stages, rule="staged"))
        if num_first > 1:
            plans.append(AskPlan(stages=stages, rule="cascade"))
    return tuple(plans)


def describe_plan(plan: AskPlan, *, has_confidence: bool = True) -> str:
    """Say who is asked first, and when that is enough."""
    first = " + ".join(plan.stages[0])
    if plan.rule == "cascade":
        return f"{first} first, the rest unless they agree"
    enough = f"confidence is {plan.min_confidence:.2f}" if has_confidence else "decided"
    return f"{first} first, the rest unless {enough}"


def measure_plan(
    plan: AskPlan,
    folds: Sequence[SetupFold],
    *,
    cost_by_member: Mapping[str, float] | None = None,
    significance: float = SIGNIFICANCE,
    max_loss: float = MAX_LOSS,
) -> StagedFigures:
    """Measure a plan on items, each counted by a setup that was not fitted on it; cost is 1 a member unless given.

    ``is_too_much`` says when the plan is refused.

    Raises:
        ConfigError: a stage is empty, or the stages do not name every member of the panel once.
    """
    figures = _measure_at(plan, _ask_items(plan, folds), cost_by_member or {})
    loss = figures.full_accuracy - figures.accuracy
    is_refused = is_too_much(loss, figures.comparison, significance=significance, max_loss=max_loss)
    return replace(figures, is_refused=is_refused)


def threshold_figures(
    plan: AskPlan,
    folds: Sequence[SetupFold],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    cost_by_member: Mapping[str, float] | None = None,
) -> tuple[StagedFigures, ...]:
    """Measure a staged plan at each confidence threshold, the highest first.

    Whichever is chosen by these figures does better by them than on other items; see ``choose_held_out``.
    """
    return _try_thresholds(plan, _ask_items(plan, folds), thresholds, cost_by_member or {})


def choose_held_out(
    plan: AskPlan,
    folds: Sequence[SetupFold],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    cost_by_member: Mapping[str, float] | None = None,
) -> StagedFigures:
    """Choose a staged plan's threshold, and measure the choosing on items that took no part in it.

    The plan that comes back has the threshold chosen on all items, while each fold's are asked at the one chosen on
    the other folds. Where even the highest threshold is refused, it is taken, and what comes of it is told.
    """
    costs = cost_by_member or {}
    steps_by_fold = [_ask_items(plan, [fold]) for fold in folds]

    def choose(part: Sequence[Sequence[tuple[_Step, ...]]]) -> AskPlan:
        tried = _try_thresholds(plan, list(itertools.chain(*part)), thresholds, costs)
        return (choose_threshold(tried) or tried[0]).plan

    staged: list[Outcome] = []
    for number, steps_by_item in enumerate(steps_by_fold):
        others = [*steps_by_fold[:number], *steps_by_fold[number + 1 :]]
        staged += _stop_at(choose(others).min_confidence, steps_by_item)
    full = [steps[-1].outcome for steps_by_item in steps_by_fold for steps in steps_by_item]
    return _compare(choose(steps_by_fold), staged, full, costs)


def is_too_much(
    loss: float, comparison: McNemar, *, significance: float = SIGNIFICANCE, max_loss: float = MAX_LOSS
) -> bool:
    """Say whether a loss of accuracy against the full panel refuses a way of saving.

    It does when McNemar's p is below ``significance``, and when it is more than ``max_loss``: with few items a loss
    that matters need not be significant. What is not refused lost little on these items; that is no proof for others.
    """
    return loss > 0.0 and (comparison.p_value < significance or loss > max_loss)


def choose_threshold(figures: Sequence[StagedFigures]) -> StagedFigures | None:
    """Choose the plan that saves most, going down from the highest threshold to the first that is refused.

    What lies below a refused threshold is not looked at. None when the highest is refused.
    """
    accepted = itertools.takewhile(
        lambda one: not one.is_refused, sorted(figures, key=lambda one: one.plan.min_confidence, reverse=True)
    )
    return max(accepted, key=lambda one: one.saving, default=None)


def _ask_items(plan: AskPlan, folds: Sequence[SetupFold]) -> list[tuple[_Step, ...]]:
    _check_plan(plan, folds)
    return [_ask_item(plan, setup, item) for setup, items in folds for item in items]


def _ask_item(plan: AskPlan, setup: VoteSetup, item: ItemVotes) -> tuple[_Step, ...]:
    """Ask stage by stage up to the full panel, whatever the threshold: that is read off the steps."""
    question, strategy = question_of(setup, item.item), get_strategy(setup.strategy)
    votes_by_member = votes_of(setup, item)
    asked: tuple[str, ...] = ()
    steps = []
    for number, stage in enumerate(plan.stages, start=1):
        asked = (*asked, *stage)
        votes = [votes_by_member[member] for member in asked]
        decision = decide_stage(question, strategy, votes)
        is_correct, score = grade(item.item, decision)
        is_last = number == len(plan.stages)
        enough_at = math.inf if is_last else _enough_at(plan, question, strategy, votes=votes, decision=decision)
        steps.append(
            _Step(
                outcome=Outcome(
                    item_id=item.item.item_id,
                    decision=decision,
                    is_correct=is_correct,
                    score=score,
                    members_used=asked,
                ),
                enough_at=enough_at,
            )
        )
    return tuple(steps)


def _enough_at(
    plan: AskPlan, question: Question, strategy: Strategy, *, votes: Sequence[Vote], decision: Decision | None
) -> float:
    """Give the highest threshold at which the votes, which come to a decision, suffice: inf for any, -inf for none.

    As ``is_enough`` says it, which is not asked at every threshold: counting is what takes time.
    """
    if is_enough(replace(plan, min_confidence=math.inf), question, strategy, votes):
        return math.inf
    if plan.rule == "cascade" or decision is None or decision.degraded or decision.confidence is None:
        return -math.inf
    return decision.confidence


def _try_thresholds(
    plan: AskPlan,
    steps_by_item: Sequence[tuple[_Step, ...]],
    thresholds: Sequence[float],
    costs: Mapping[str, float],
) -> tuple[StagedFigures, ...]:
    return tuple(
        _measure_at(replace(plan, min_confidence=threshold), steps_by_item, costs)
        for threshold in sorted(thresholds, reverse=True)
    )


def _measure_at(plan: AskPlan, steps_by_item: Sequence[tuple[_Step, ...]], costs: Mapping[str, float]) -> StagedFigures:
    full = [steps[-1].outcome for steps in steps_by_item]
    return _compare(plan, _stop_at(plan.min_confidence, steps_by_item), full, costs)


def _stop_at(threshold: float, steps_by_item: Sequence[tuple[_Step, ...]]) -> list[Outcome]:
    return [next(step.outcome for step in steps if threshold <= step.enough_at) for steps in steps_by_item]


def _compare(
    plan: AskPlan, staged: Sequence[Outcome], full: Sequence[Outcome], costs: Mapping[str, float]
) -> StagedFigures:
    comparison = mcnemar([one.is_correct for one in staged], [one.is_correct for one in full])
    num_items = max(len(full), 1)
    accuracy = sum(one.is_correct for one in staged) / num_items
    full_accuracy = sum(one.is_correct for one in full) / num_items
    spent = math.fsum(costs.get(member, 1.0) for one in staged for member in one.members_used)
    whole = math.fsum(costs.get(member, 1.0) for one in full for member in one.members_used)
    return StagedFigures(
        plan=plan,
        num_items=len(full),
        mean_asked=sum(len(one.members_used) for one in staged) / num_items,
        saving=max(1.0 - spent / whole, 0.0) if whole else 0.0,
        accuracy=accuracy,
        full_accuracy=full_accuracy,
        comparison=comparison,
        is_refused=is_too_much(full_accuracy - accuracy, comparison),
    )


def _check_plan(plan: AskPlan, folds: Sequence[SetupFold]) -> None:
    named = [member for stage in plan.stages for member in stage]
    for setup, _ in folds:
        if not all(plan.stages) or sorted(named) != sorted(voter.member for voter in setup.panel):
            problem = f"the stages name {', '.join(named) or 'nobody'}"
            raise ConfigError("asking.stages", problem, "name every member of the panel once, none of the stages empty")
