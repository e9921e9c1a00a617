from __future__ import annotations

import pytest

from ensemble.voting.asking import AskPlan, decide_stage, is_enough
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote, Voter
from ensemble.voting.decision import DecidedBy
from ensemble.voting.registry import get_strategy
from ensemble.voting.strategy import Question, Quorum, VoteCalibration

PANEL = tuple(Voter(member=f"m{n}", family=f"f{n}") for n in range(4))
STAGES = (("m0", "m1"), ("m2", "m3"))
VOTE = get_strategy("weighted_vote")


def _question(kappa: float | None = None, quorum: Quorum | None = None) -> Question:
    calibration = None if kappa is None else VoteCalibration(kappa=kappa)
    return Question(panel=PANEL, quorum=quorum or Quorum(min_weight=0.0), choices=("x", "y"), calibration=calibration)


def _votes(*choices: str) -> list[Vote]:
    return [
        Ballot(member=f"m{place}", choice=choice)
        if choice
        else Abstention(member=f"m{place}", reason=AbstentionReason.ERROR)
        for place, choice in enumerate(choices)
    ]


@pytest.mark.parametrize(
    ("choices", "expected"), [(("x", "x"), True), (("x", "y"), False), (("x", ""), False), (("", ""), False)]
)
def test_a_cascade_ends_when_two_or_more_agree_and_nobody_differs(choices: tuple[str, ...], expected: bool) -> None:  # noqa: FBT001
    plan = AskPlan(stages=STAGES, rule="cascade")

    assert is_enough(plan, _question(), VOTE, _votes(*choices)) is expected


@pytest.mark.parametrize(("kappa", "expected"), [(0.2, False), (2.0, True)])
def test_a_stage_is_enough_when_those_asked_are_sure_enough(kappa: float, expected: bool) -> None:  # noqa: FBT001
    plan = AskPlan(stages=STAGES, rule="staged", min_confidence=0.9)

    assert is_enough(plan, _question(kappa), VOTE, _votes("x", "x")) is expected


def test_without_a_calibration_only_a_decided_vote_ends_the_asking() -> None:
    plan = AskPlan(stages=(("m0", "m1", "m2"), ("m3",)), rule="staged", min_confidence=0.1)

    assert not is_enough(plan, _question(), VOTE, _votes("x", "x", "y"))
    assert is_enough(plan, _question(), VOTE, _votes("x", "x", "x"))


def test_too_few_families_are_never_enough() -> None:
    plan = AskPlan(stages=STAGES, rule="cascade")

    assert not is_enough(plan, _question(quorum=Quorum(min_families=3)), VOTE, _votes("x", "x"))


def test_a_stage_is_decided_among_those_asked() -> None:
    decision = decide_stage(_question(1.0), VOTE, _votes("x", "x"))

    assert decision is not None
    assert (decision.answer, decision.num_asked, decision.decided_by) == ("x", 2, DecidedBy.STAGE)
    assert decision.abstentions == ()


def test_everyone_asked_is_the_whole_vote() -> None:
    decision = decide_stage(_question(), VOTE, _votes("x", "y", "y", "y"))

    assert decision is not None
    assert (decision.answer, decision.decided_by) == ("y", DecidedBy.ALL)
