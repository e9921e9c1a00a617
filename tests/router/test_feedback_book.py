"""What feedback teaches, and how little a lie can do."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import InvalidRequestError
from ensemble.router.feedback import Audit, FeedbackOutcome, FeedbackPolicy
from ensemble.router.feedback_book import FeedbackBook
from tests.router.feedback_books import SPLIT, YES_OR_NO, ask, factors, tell


def test_who_was_right_gains_what_who_was_wrong_loses() -> None:
    book = FeedbackBook()
    ask(book, "r1")

    outcome = tell(book, "r1", "yes")

    assert outcome == FeedbackOutcome(accepted=True, was_audited=True, already_known=False)
    # One of three was wrong, so the mean loss is 1/3.
    expected = {"ann": math.exp(0.1 / 3), "bob": math.exp(-0.2 / 3), "cat": math.exp(0.1 / 3)}
    assert factors(book) == pytest.approx(expected)


def test_a_member_that_abstained_keeps_its_weight() -> None:
    book = FeedbackBook()
    ask(book, "r1", {"ann": "yes", "bob": "no"})
    ask(book, "r2")
    tell(book, "r1", "yes")
    before = factors(book)
    ask(book, "r3", {"ann": "yes", "bob": "no"})
    tell(book, "r2", "no")
    between = factors(book)["cat"]

    tell(book, "r3", "no")

    assert "cat" not in before
    assert factors(book)["cat"] == between


def test_a_question_that_all_get_wrong_moves_nothing() -> None:
    book = FeedbackBook()
    ask(book, "r1", dict.fromkeys(SPLIT, "yes"))

    assert tell(book, "r1", "no").accepted

    assert set(factors(book).values()) == {1.0}


@pytest.mark.parametrize("later", ["yes", "no"])
def test_a_request_counts_once_whatever_is_told_later(later: str) -> None:
    book = FeedbackBook()
    ask(book, "r1")
    tell(book, "r1", "yes")
    before = factors(book)

    outcome = tell(book, "r1", later)

    assert outcome == FeedbackOutcome(accepted=False, was_audited=True, already_known=True)
    assert factors(book) == before


def test_a_request_that_had_its_feedback_cannot_be_audited_again() -> None:
    book = FeedbackBook()
    ask(book, "r1")
    tell(book, "r1", "yes")

    assert not ask(book, "r1")

    assert tell(book, "r1", "no").already_known


def test_the_first_audit_of_a_request_counts() -> None:
    book = FeedbackBook()
    ask(book, "r1")

    assert not ask(book, "r1", {"ann": "no", "bob": "yes"})

    tell(book, "r1", "yes")
    assert factors(book)["ann"] > 1.0


def test_a_request_that_was_not_audited_is_not_accepted_and_the_outcome_says_why() -> None:
    outcome = tell(FeedbackBook(), "r1", "yes")

    assert (outcome.accepted, outcome.was_audited, outcome.already_known) == (False, False, False)
    assert "not audited" in outcome.problem


def test_short_answers_are_compared_by_their_normalised_form() -> None:
    book = FeedbackBook()
    audit = Audit(request_id="r1", ensemble="default", choice_by_member={"ann": "1000", "bob": "12"})
    book.record_audit(audit, now_s=0.0)

    tell(book, "r1", "$1,000.00", is_choice=False)

    assert factors(book) == pytest.approx({"ann": math.exp(0.05), "bob": math.exp(-0.05)})


@pytest.mark.parametrize(
    ("answer", "kind", "choices", "field"),
    [
        ("maybe", "choice", YES_OR_NO, "answer.choice"),
        ("yes", "text", YES_OR_NO, "answer"),
        ("yes", "choice", (), "answer"),
        (" ...", "text", (), "answer.text"),
    ],
    ids=["no such choice", "a text for a choice", "a choice for a text", "nothing"],
)
def test_an_answer_that_does_not_fit_is_refused_and_can_be_given_again(
    answer: str, kind: str, choices: tuple[str, ...], field: str
) -> None:
    book = FeedbackBook()
    book.record_audit(Audit(request_id="r1", ensemble="default", choices=choices, choice_by_member=SPLIT), now_s=0.0)

    with pytest.raises(InvalidRequestError) as caught:
        tell(book, "r1", answer, is_choice=kind == "choice")

    assert caught.value.field == field
    assert tell(book, "r1", "yes", is_choice=bool(choices)).accepted


def test_ten_thousand_lies_stay_within_the_bound_and_the_truth_undoes_them() -> None:
    book = FeedbackBook()

    for n in range(10_000):
        ask(book, f"lie-{n}")
        tell(book, f"lie-{n}", "no")  # the only one right is bob, who never is

    lied = factors(book)
    assert lied == pytest.approx({"ann": math.exp(-1.5), "bob": math.exp(1.5), "cat": math.exp(-1.5)})
    # From one bound to the other are 3.0; a truth moves bob by 0.1 * 2/3, so that 45 of them bring him all the way.
    for n in range(45):
        ask(book, f"truth-{n}")
        tell(book, f"truth-{n}", "yes")
    assert factors(book)["bob"] == pytest.approx(math.exp(-1.5))
    assert factors(book)["ann"] == pytest.approx(1.0)


@given(
    rate=st.floats(0.001, 5.0),
    max_shift=st.floats(0.01, 5.0),
    rounds=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(["ann", "bob", "cat", "dan"]), st.sampled_from(YES_OR_NO)),
            st.sampled_from(YES_OR_NO),
        ),
        max_size=40,
    ),
)
def test_no_feedback_leaves_the_bound_or_moves_a_weight_by_more_than_the_rate(
    rate: float, max_shift: float, rounds: list[tuple[dict[str, str], str]]
) -> None:
    policy = FeedbackPolicy(audit_share=1.0, learning_rate=rate, max_shift=max_shift)
    book = FeedbackBook()

    for n, (choices, answer) in enumerate(rounds):
        before = factors(book, max_shift=max_shift)
        ask(book, f"r{n}", choices)
        tell(book, f"r{n}", answer, policy=policy)

        for member, factor in factors(book, max_shift=max_shift).items():
            assert abs(math.log(factor)) <= max_shift * (1 + 1e-9)
            assert abs(math.log(factor / before.get(member, 1.0))) <= rate * (1 + 1e-9) + 1e-12


def test_a_bound_that_became_narrower_holds_at_once() -> None:
    book = FeedbackBook()
    for n in range(100):
        ask(book, f"r{n}")
        tell(book, f"r{n}", "yes")

    narrow = factors(book, max_shift=0.2)

    assert narrow == pytest.approx({"ann": math.exp(0.2), "bob": math.exp(-0.2), "cat": math.exp(0.2)})


def test_feedback_finds_the_better_member() -> None:
    rng = random.Random(3)
    right = {"ann": 0.9, "bob": 0.6, "cat": 0.6}
    book = FeedbackBook()

    for n in range(300):
        ask(book, f"r{n}", {member: "yes" if rng.random() < share else "no" for member, share in right.items()})
        tell(book, f"r{n}", "yes")

    learned = factors(book)
    assert learned["ann"] == pytest.approx(math.exp(1.5))
    assert learned["bob"] < 1.0
    assert learned["cat"] < 1.0


def test_ensembles_learn_apart() -> None:
    book = FeedbackBook()
    ask(book, "r1")
    tell(book, "r1", "yes")

    assert book.factors("other", max_shift=1.0) == {}
