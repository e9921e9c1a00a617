"""Strategies with a second round: what they need of it, and what none of them lets show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ensemble.errors import InvalidRequestError
from ensemble.voting import STRATEGY_NAMES, Ballot, DecidedBy, Decision, Question, Vote, Voter, get_strategy
from ensemble.voting.strategy import Evidence, VoteCalibration
from ensemble.voting.texts import distinct_texts
from tests.voting.panels import build_question, count, decide, silent, text
from tests.voting.second_rounds import with_evidence

ASKING = [name for name in STRATEGY_NAMES if get_strategy(name).second_round]
every_asking = pytest.mark.parametrize("strategy", ASKING)
TEXTS = ("red house", "green house", "blue", "a red house by the sea")
MANY = settings(max_examples=1_000, deadline=None)


@st.composite
def cast_votes(draw: st.DrawFn) -> tuple[list[float], list[Vote]]:
    weights = draw(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 1.0]), min_size=1, max_size=6).filter(any))
    votes: list[Vote] = []
    for n in range(len(weights)):
        index = draw(st.sampled_from([None, 0, 0, 1, 2, 3]))
        logprob = draw(st.sampled_from([None, -1.0, -2.0]))
        votes.append(silent(n) if index is None else text(n, TEXTS[index], logprob))
    return weights, votes


def settle(strategy: str, question: Question, votes: Sequence[Vote]) -> Decision:
    return decide(strategy, with_evidence(strategy, question, votes), votes)


def numbers(decision: Decision) -> tuple[object, ...]:
    return decision.answer, decision.candidates, decision.agreement, decision.margin


@every_asking
@MANY
@given(cast=cast_votes(), data=st.data())
def test_no_order_shows(strategy: str, cast: tuple[list[float], list[Vote]], data: st.DataObject) -> None:
    weights, votes = cast
    assume(any(isinstance(vote, Ballot) for vote in votes))
    question = build_question(weights, ())
    shuffled = data.draw(st.permutations(votes))
    other_panel = replace(question, panel=tuple(data.draw(st.permutations(question.panel))))

    decision = settle(strategy, question, votes)
    arrived_otherwise = settle(strategy, question, shuffled)
    declared_otherwise = settle(strategy, other_panel, votes)

    assert arrived_otherwise == decision
    assert (declared_otherwise.answer, declared_otherwise.agreement) == (decision.answer, decision.agreement)
    assert 0.0 <= decision.margin <= decision.agreement <= 1.0
    assert decision.candidates[0].answer == decision.answer


@every_asking
@MANY
@given(cast=cast_votes())
def test_abstaining_equals_being_absent(strategy: str, cast: tuple[list[float], list[Vote]]) -> None:
    weights, votes = cast
    ballots = [vote for vote in votes if isinstance(vote, Ballot)]
    assume(any(weights[n] for n, vote in enumerate(votes) if isinstance(vote, Ballot)))
    question = build_question(weights, ())
    members = {ballot.member for ballot in ballots}
    smaller = replace(question, panel=tuple(voter for voter in question.panel if voter.member in members))

    assert numbers(settle(strategy, question, votes)) == numbers(settle(strategy, smaller, ballots))


@every_asking
@MANY
@given(cast=cast_votes())
def test_a_clone_that_shares_its_weight_changes_nothing(strategy: str, cast: tuple[list[float], list[Vote]]) -> None:
    # A clone answers as the original does and finds texts as likely. Halving the weight is what the discount of a
    # family of two with error correlation 1 does.
    weights, votes = cast
    assume(isinstance(votes[0], Ballot) and weights[0])
    question = build_question(weights, ())
    first, *others = question.panel
    halves = (replace(first, weight=first.weight / 2), Voter(member="clone", family="f0", weight=first.weight / 2))
    cloned_question = replace(question, panel=(*halves, *others))
    cloned_votes = [*votes, replace(votes[0], member="clone")]
    evidence = with_evidence(strategy, question, votes).evidence
    assert evidence is not None
    scores = evidence.logprobs_by_scorer
    cloned_scores = {**scores, "clone": scores["m0"]} if scores else {}

    alone = decide(strategy, replace(question, evidence=evidence), votes)
    cloned = decide(
        strategy,
        replace(cloned_question, evidence=replace(evidence, logprobs_by_scorer=cloned_scores)),
        cloned_votes,
    )

    assert cloned.agreement == pytest.approx(alone.agreement)
    assert cloned.margin == pytest.approx(alone.margin)
    # A tie that goes to the member with the largest weight of its own may go elsewhere when that weight is split.
    assert cloned.answer == alone.answer or alone.margin < 1e-8


@every_asking
def test_two_texts_without_evidence_are_not_decided(strategy: str) -> None:
    tally = count(strategy, build_question([1.0, 1.0], ()), [text(0, "red"), text(1, "blue")])

    with pytest.raises(InvalidRequestError, match=f"evidence: {strategy} needs some about 2 texts"):
        tally.decide(DecidedBy.ALL)


@every_asking
@pytest.mark.parametrize("texts", [("red",), ("red", "green"), ("red", "blue", "green"), ("red", "blue", "blue")])
def test_evidence_about_other_texts_is_refused(strategy: str, texts: tuple[str, ...]) -> None:
    votes = [text(0, "red"), text(1, "blue")]
    question = with_evidence(strategy, build_question([1.0, 1.0], ()), votes)
    assert question.evidence is not None
    wrong = replace(question, evidence=replace(question.evidence, texts=texts))

    with pytest.raises(InvalidRequestError, match="about other texts than the 2 of the ballots"):
        decide(strategy, wrong, votes)


@every_asking
def test_one_text_needs_no_model(strategy: str) -> None:
    votes = [text(0, "red"), text(1, " red\n")]

    decision = decide(strategy, build_question([1.0, 3.0], ()), votes)

    assert (decision.answer, decision.agreement, decision.margin) == ("red", 1.0, 1.0)
    assert decision.candidates[0].members == ("m0", "m1")


@every_asking
def test_nothing_stops_the_vote_early(strategy: str) -> None:
    certain = VoteCalibration(kappa=1.0)
    question = replace(build_question([100.0, 1.0], ()), calibration=certain)

    tally = count(strategy, question, [text(0, "red")])

    assert not tally.is_decided()
    assert not tally.is_certified()
    assert get_strategy(strategy).is_heavy


@every_asking
def test_choices_and_negative_weights_are_refused(strategy: str) -> None:
    with pytest.raises(InvalidRequestError, match="votes on texts"):
        count(strategy, build_question([1.0]), [])
    with pytest.raises(InvalidRequestError, match="negative weights"):
        count(strategy, build_question([1.0, -0.1], ()), [])


@pytest.mark.parametrize(
    ("strategy", "evidence"),
    [
        ("mbr_embedding", {"embeddings": ((1.0, 0.0),)}),
        ("mbr_embedding", {"embeddings": ((1.0, 0.0), (1.0,))}),
        ("mbr_mix", {"embeddings": ((1.0, 0.0), (0.0, 0.0))}),
        ("semantic_vote", {"embeddings": ((1.0, 0.0), (float("nan"), 0.0))}),
        ("rank", {"logprobs_by_scorer": {"m0": (-1.0,)}}),
        ("rank", {"logprobs_by_scorer": {"m1": (-1.0, float("-inf"))}}),
        ("judge", {"verdict": ()}),
        ("judge", {"verdict": (-1.0, float("nan"))}),
        ("fuse", {"fused": " "}),
    ],
)
def test_evidence_that_is_not_whole_is_refused(strategy: str, evidence: dict[str, object]) -> None:
    votes = [text(0, "red"), text(1, "blue")]
    broken = Evidence(texts=("red", "blue"), **evidence)  # type: ignore[arg-type]
    question = replace(build_question([1.0, 1.0], ()), evidence=broken)

    with pytest.raises(InvalidRequestError, match=f"evidence.{next(iter(evidence))}"):
        decide(strategy, question, votes)


def test_the_texts_are_distinct_and_in_the_panels_order() -> None:
    panel = build_question([1.0] * 4, ()).panel
    votes: list[Vote] = [text(3, "last"), text(1, " same "), silent(2), text(0, "same")]

    assert distinct_texts(votes, panel) == ("same", "last")


def test_an_answer_that_another_rule_read_is_not_the_text() -> None:
    vote = replace(text(0, "The answer is seven."), choice="seven")

    decision = decide("rank", build_question([1.0], ()), [vote])

    assert decision.answer == "The answer is seven."
