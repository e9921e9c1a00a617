"""What was learned changes ballots and questions, and says nothing about questions of another kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ensemble.errors import ConfigError, InvalidRequestError
from ensemble.voting.ballot import Ballot, Voter
from ensemble.voting.calibrated import (
    EnsembleCalibration,
    MemberCalibration,
    StrategyCalibration,
    build_question,
    calibrate_ballot,
)
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.record import VoteRecord, recount
from ensemble.voting.registry import get_strategy
from ensemble.voting.strategy import Question, Quorum, VoteCalibration

LABELS = ("x", "y")
PANEL = (Voter(member="a", family="f"), Voter(member="b", family="g"))
FITTED = StrategyCalibration(weight_by_member={"a": 2.0, "b": 1.0}, kappa=0.5, conformal_threshold=0.9)
CALIBRATION = EnsembleCalibration(
    digest="d", by_member=dict.fromkeys("ab", MemberCalibration()), by_strategy={"weighted_vote": FITTED}
)


def ask(calibration: EnsembleCalibration, choices: tuple[str, ...] = LABELS) -> Question:
    return build_question(calibration, "weighted_vote", PANEL, quorum=Quorum(), choices=choices)


def decide(question: Question, ballots: list[Ballot], strategy: str = "weighted_vote") -> Decision:
    tally = get_strategy(strategy).open_tally(question)
    for ballot in ballots:
        tally = tally.add(ballot)
    return tally.decide(DecidedBy.DEADLINE if tally.waiting else DecidedBy.ALL)


def test_a_temperature_moves_probabilities_towards_equal_and_keeps_the_choice() -> None:
    ballot = Ballot(member="a", choice="x", probabilities=(0.8, 0.2), logprob=-0.1)

    corrected = calibrate_ballot(ballot, LABELS, MemberCalibration(temperature=2.0))

    assert corrected.probabilities == pytest.approx((2 / 3, 1 / 3))
    assert (corrected.choice, corrected.logprob) == ("x", -0.1)


def test_a_label_bias_may_turn_the_choice_and_then_its_logprob_is_unknown() -> None:
    ballot = Ballot(member="a", choice="x", probabilities=(0.6, 0.4), logprob=-0.1)

    corrected = calibrate_ballot(ballot, LABELS, MemberCalibration(bias_by_label={"y": 1.0}))

    assert (corrected.choice, corrected.logprob) == ("y", None)


def test_a_text_is_left_as_it_is() -> None:
    ballot = Ballot(member="a", text="x")

    assert calibrate_ballot(ballot, (), MemberCalibration(temperature=2.0)) is ballot


@pytest.mark.parametrize(
    ("calibration", "choices", "is_used"),
    [
        (CALIBRATION, LABELS, True),
        (CALIBRATION, ("p", "q", "r"), True),
        (CALIBRATION, (), False),
        (replace(CALIBRATION, has_choices=False), LABELS, False),
        (replace(CALIBRATION, has_choices=False), (), True),
        (replace(CALIBRATION, labels=("y", "x")), LABELS, True),
        (replace(CALIBRATION, labels=("x", "y", "z")), LABELS, False),
    ],
)
def test_a_calibration_is_used_for_questions_of_its_own_kind_alone(
    calibration: EnsembleCalibration, choices: tuple[str, ...], *, is_used: bool
) -> None:
    question = ask(calibration, choices)

    assert (question.calibration is not None) == is_used
    assert [voter.weight for voter in question.panel] == ([2.0, 1.0] if is_used else [1.0, 1.0])


def test_a_member_without_a_weight_is_refused() -> None:
    lacking = replace(CALIBRATION, by_strategy={"weighted_vote": replace(FITTED, weight_by_member={"a": 1.0})})

    with pytest.raises(ConfigError, match="no weight for b"):
        ask(lacking)


def test_a_label_set_is_told_only_when_everybody_has_cast_a_ballot() -> None:
    first, second = Ballot(member="a", choice="x"), Ballot(member="b", choice="x")

    whole, partial = decide(ask(CALIBRATION), [first, second]), decide(ask(CALIBRATION), [first])

    assert whole.label_set == ("x", "y")
    assert partial.label_set == ()
    assert partial.confidence is not None


def test_without_a_kappa_there_is_no_confidence_and_the_answer_is_below_every_threshold() -> None:
    question = replace(ask(CALIBRATION), calibration=VoteCalibration(kappa=None, withhold_below=0.9))

    decision = decide(question, [Ballot(member="a", choice="x"), Ballot(member="b", choice="y")])

    assert (decision.confidence, decision.withheld, decision.label_set) == (None, True, ())


def test_a_record_with_negative_weights_is_counted_by_its_own_rule_or_by_heads() -> None:
    panel = (replace(PANEL[0], weight=1.0), replace(PANEL[1], weight=-1.5))
    question = Question(panel=panel, quorum=Quorum(), choices=LABELS, calibration=VoteCalibration(kappa=1.0))
    votes = tuple(Ballot(member=member, choice="x", probabilities=(0.9, 0.1)) for member in "ab")
    record = VoteRecord(
        request_id="r",
        ensemble="e",
        strategy="stacking",
        question=question,
        votes=votes,
        decision=decide(question, list(votes), "stacking"),
    )

    assert recount(record) == record.decision
    assert recount(record, strategy="majority").answer == "x"
    with pytest.raises(InvalidRequestError, match="negative"):
        recount(record, strategy="weighted_vote")
