"""The demo's sums: they must say it plainly when nothing was gained."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ensemble.engines.engine import EngineStats
from ensemble.voting.ballot import Ballot
from ensemble.voting.decision import DecidedBy, Decision

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    """Load the script beside the demo, which is no package."""
    spec = importlib.util.spec_from_file_location("demo_figures", EXAMPLES / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def answered(figures: ModuleType, answer: str, choices: dict[str, str], *, early_s: float = 1.0, steps: int = 4) -> Any:
    """Make a question whose right answer is Paris; the full vote took two seconds and ten passes."""
    decision = Decision(
        answer=answer,
        strategy="weighted_vote",
        decided_by=DecidedBy.ALL,
        agreement=1.0,
        margin=1.0,
        confidence=None,
        degraded=False,
        num_asked=len(choices),
        families=("x",),
        candidates=(),
        ballots=tuple(Ballot(member=member, choice=choice) for member, choice in choices.items()),
        abstentions=(),
    )

    def run(elapsed_s: float, num_steps: int) -> Any:
        work = figures.Work(steps=num_steps, prompt_tokens=num_steps, completion_tokens=0, aborted_requests=0)
        return figures.Run(decision=decision, elapsed_s=elapsed_s, work=work)

    return figures.Answered(question="q", expected="Paris", early=run(early_s, steps), full=run(2.0, 10))


@pytest.mark.parametrize(
    ("answer", "choices", "verdict"),
    [
        ("Paris", {"a": "Paris", "b": "Rome"}, "did not beat its best member: 1 of 1 right, 1 by a"),
        ("Paris", {"a": "Rome", "b": "Rome"}, "beat its best member: 1 of 1 right, 0 by a, b"),
        ("Rome", {"a": "Paris", "b": "Rome"}, "did worse than its best member: 0 of 1 right, 1 by a"),
        ("paris ", {"a": "paris"}, "did not beat its best member: 1 of 1 right, 1 by a"),
    ],
)
def test_the_ensemble_is_compared_with_its_best_member(
    answer: str, choices: dict[str, str], verdict: str, figures: ModuleType
) -> None:
    assert verdict in figures.describe_accuracy([answered(figures, answer, choices)])


def test_time_that_was_saved_is_told(figures: ModuleType) -> None:
    told = figures.describe_times([answered(figures, "Paris", {"a": "Paris"})])

    assert told == "median time to the decision 1000 ms, waiting for everyone 2000 ms: 1000 ms saved (0.50 of it)"


def test_time_that_was_not_saved_is_told_as_well(figures: ModuleType) -> None:
    told = figures.describe_times([answered(figures, "Paris", {"a": "Paris"}, early_s=2.5)])

    assert told.endswith(": nothing was saved")


@pytest.mark.parametrize(
    ("steps", "verdict"), [(4, "6 passes and 6 tokens spared"), (10, "nothing was spared"), (11, "nothing was spared")]
)
def test_the_engines_counters_decide_what_was_spared(steps: int, verdict: str, figures: ModuleType) -> None:
    assert verdict in figures.describe_work([answered(figures, "Paris", {"a": "Paris"}, steps=steps)])


def test_work_is_the_difference_of_all_replicas_counters(figures: ModuleType) -> None:
    before = [EngineStats(steps=1, prompt_tokens=10), EngineStats(steps=2, completion_tokens=5)]
    after = [EngineStats(steps=4, prompt_tokens=30), EngineStats(steps=2, completion_tokens=9, aborted_requests=1)]

    work = figures.Work.between(before, after)

    assert work == figures.Work(steps=3, prompt_tokens=20, completion_tokens=4, aborted_requests=1)
    assert work.num_tokens == 24


def test_rounds_of_all_questions_are_compared_by_their_medians(figures: ModuleType) -> None:
    work = figures.Work(steps=1, prompt_tokens=5, completion_tokens=0, aborted_requests=2)
    rounds = [(True, 1.0), (False, 4.0), (False, 4.0), (True, 3.0)]

    told = figures.describe_rushes(
        [figures.Rush(stops_early=stops_early, elapsed_s=elapsed_s, work=work) for stops_early, elapsed_s in rounds]
    )

    assert "2.00 s with the early stop, 4.00 s without: 2.00 s saved (0.50 of it)" in told
    assert "10 tokens against 10, 4 requests cut short" in told
