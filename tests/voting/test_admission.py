"""Ballots and questions that do not fit are refused with what is wrong and what to do."""

from __future__ import annotations

import pytest

from ensemble.errors import InvalidRequestError
from ensemble.voting import AbstentionReason, AnswerRule, Ballot, DecidedBy, Question, Quorum
from tests.voting.panels import build_question, count, decide, hard, soft, text

NAN = float("nan")


@pytest.mark.parametrize(
    ("strategy", "ballot", "problem"),
    [
        ("weighted_vote", hard(0, "pink"), "'pink' is not a declared choice"),
        ("weighted_vote", hard(0, ""), "'' is not a declared choice"),
        ("weighted_vote", text(0, "red"), "neither a choice nor probabilities"),
        ("weighted_vote", soft(0, 0.5, 0.5), "2 probabilities for 3 choices"),
        ("majority", soft(0, 0.5, 0.4, 0.0), "sum to 0.9"),
        ("soft_vote", soft(0, 0.5, 0.6, -0.1), "negative or not finite"),
        ("soft_vote", soft(0, 0.5, NAN, 0.5), "negative or not finite"),
        ("soft_vote", soft(0, 0.5, 0.5, 2e-5), "sum to 1.00002"),
        ("soft_vote", hard(0, "red"), "no probabilities"),
    ],
)
def test_a_ballot_that_does_not_fit_the_choices_is_refused(strategy: str, ballot: Ballot, problem: str) -> None:
    tally = count(strategy, build_question([1.0]), [])

    with pytest.raises(InvalidRequestError, match=problem) as caught:
        tally.add(ballot)

    assert caught.value.field == "ballots[m0]"


@pytest.mark.parametrize("strategy", ["majority", "weighted_vote", "mbr"])
@pytest.mark.parametrize(
    ("ballot", "problem"),
    [
        (hard(0, "red"), "no text"),
        (Ballot(member="m0", text="x", probabilities=(1.0,)), "1 probabilities for 0 choices"),
    ],
)
def test_a_ballot_that_is_no_text_is_refused(strategy: str, ballot: Ballot, problem: str) -> None:
    tally = count(strategy, build_question([1.0], ()), [])

    with pytest.raises(InvalidRequestError, match=problem):
        tally.add(ballot)


@pytest.mark.parametrize("choices", [("red",), ("red", "red"), ("red", " ")])
@pytest.mark.parametrize("strategy", ["majority", "weighted_vote", "soft_vote"])
def test_choices_that_are_no_choice_are_refused(strategy: str, choices: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="choices"):
        count(strategy, build_question([1.0], choices), [])


@pytest.mark.parametrize("strategy", ["weighted_vote", "soft_vote"])
@pytest.mark.parametrize(
    ("weights", "problem"), [([0.0, 0.0], "sum to 0"), ([1e308, 1e308], "give a finite weight"), ([1.0, -1e301], "m1")]
)
def test_a_panel_without_a_weight_to_count_with_is_refused(strategy: str, weights: list[float], problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        count(strategy, build_question(weights), [])


def test_soft_vote_needs_choices() -> None:
    with pytest.raises(InvalidRequestError, match="soft_vote needs some"):
        count("soft_vote", build_question([1.0], ()), [])


def test_float32_rounding_is_no_fault() -> None:
    decision = decide("soft_vote", build_question([1.0]), [soft(0, 1.0000001, 0.0, 0.0)])

    assert decision.agreement == 1.0


@pytest.mark.parametrize(
    ("rule", "completion", "reason"),
    [
        (AnswerRule(), "", AbstentionReason.UNPARSEABLE),
        (AnswerRule(), "...", AbstentionReason.UNPARSEABLE),
        (AnswerRule(), "I cannot answer that.", AbstentionReason.REFUSAL),
        (AnswerRule(extract="last_number"), "seven", AbstentionReason.UNPARSEABLE),
        (AnswerRule(extract="last_number"), "I'm sorry, I cannot answer questions on 2020.", AbstentionReason.REFUSAL),
        (AnswerRule(extract="pattern", pattern="x+"), "yyy", AbstentionReason.UNPARSEABLE),
        (AnswerRule(extract="pattern", pattern="x+"), "I don't know.", AbstentionReason.REFUSAL),
    ],
)
def test_a_text_without_an_answer_abstains_and_says_why(
    rule: AnswerRule, completion: str, reason: AbstentionReason
) -> None:
    panel = build_question([1.0, 1.0], ()).panel
    question = Question(panel=panel, quorum=Quorum(), answer_rule=rule)
    silent_text = Ballot(member="m0", text=completion, latency_s=0.25)

    tally = count("weighted_vote", question, [silent_text, text(1, "xx 7")])
    decision = tally.decide(DecidedBy.ALL)

    assert tally.num_cast == 1
    assert [(a.member, a.reason, a.latency_s) for a in decision.abstentions] == [("m0", reason, 0.25)]


def test_a_pattern_that_matches_outranks_a_refusal() -> None:
    panel = build_question([1.0], ()).panel
    rule = AnswerRule(extract="pattern", pattern="cannot")

    decision = decide(
        "majority", Question(panel=panel, quorum=Quorum(), answer_rule=rule), [text(0, "I cannot answer.")]
    )

    assert decision.answer == "cannot"


def test_a_blank_text_never_votes_in_mbr() -> None:
    decision = decide("mbr", build_question([9.0, 1.0], ()), [text(0, " \n"), text(1, "A house.")])

    assert decision.answer == "A house."
    assert [a.reason for a in decision.abstentions] == [AbstentionReason.UNPARSEABLE]
