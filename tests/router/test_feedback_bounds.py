"""How much a feedback book keeps, and what it refuses to keep."""

from __future__ import annotations

import math
import pickle

import pytest

from ensemble.errors import InvalidRequestError
from ensemble.router.feedback import Audit, Feedback
from ensemble.router.feedback_book import AuditedRequest, FeedbackBook
from tests.router.feedback_books import POLICY, SPLIT, ask, factors, tell


def kept_requests(book: FeedbackBook) -> list[AuditedRequest]:
    """List what is kept of the only ensemble's requests."""
    return list(book.ledger_by_ensemble["default"].request_by_id.values())


def test_audits_are_bounded_in_number_and_the_oldest_goes_first() -> None:
    book = FeedbackBook(max_requests=3)

    for n in range(5):
        ask(book, f"r{n}")

    assert [tell(book, f"r{n}", "yes").accepted for n in range(5)] == [False, False, True, True, True]
    assert len(book.ledger_by_ensemble["default"].request_by_id) == 3


def test_audits_are_bounded_in_age() -> None:
    book = FeedbackBook(max_age_s=100.0)
    ask(book, "old", now_s=0.0)
    ask(book, "young", now_s=50.0)

    outcomes = [tell(book, request_id, "yes", now_s=101.0) for request_id in ("old", "young")]

    assert [outcome.accepted for outcome in outcomes] == [False, True]


def test_what_is_kept_of_an_audit_does_not_depend_on_how_long_its_texts_are() -> None:
    choices = tuple(f"{n} {'x' * 1_000}" for n in range(64))
    said = dict.fromkeys(SPLIT, choices[3])
    book = FeedbackBook()

    book.record_audit(Audit(request_id="r1", ensemble="default", choices=choices, choice_by_member=said), now_s=0.0)
    book.record_audit(Audit(request_id="r2", ensemble="default", choice_by_member=said), now_s=0.0)

    assert all(len(pickle.dumps(request)) < 3_000 for request in kept_requests(book))


def test_requests_with_very_many_choices_keep_none_of_them_and_still_teach() -> None:
    choices = tuple(f"choice {n}" for n in range(5_000))
    book = FeedbackBook()
    said = {"ann": choices[4_999], "bob": choices[0]}
    book.record_audit(Audit(request_id="r1", ensemble="default", choices=choices, choice_by_member=said), now_s=0.0)
    (kept,) = kept_requests(book)

    outcome = tell(book, "r1", choices[4_999])

    assert len(pickle.dumps(kept)) < 3_000
    assert outcome.accepted
    assert factors(book) == pytest.approx({"ann": math.exp(0.05), "bob": math.exp(-0.05)})


@pytest.mark.parametrize("field", ["request_id", "ensemble", "member"])
def test_a_name_that_is_not_unicode_is_refused_and_nothing_of_it_is_kept(field: str) -> None:
    bad = "\ud800"
    book = FeedbackBook()
    audit = Audit(
        request_id=bad if field == "request_id" else "r1",
        ensemble=bad if field == "ensemble" else "default",
        choice_by_member={bad if field == "member" else "ann": "yes"},
    )

    with pytest.raises(InvalidRequestError, match="not Unicode"):
        book.record_audit(audit, now_s=0.0)

    assert not book.ledger_by_ensemble


def test_answers_that_are_not_unicode_are_compared_like_others() -> None:
    odd = "\udfff"
    book = FeedbackBook()
    said = {"ann": odd, "bob": "no"}
    book.record_audit(Audit(request_id="r1", ensemble="default", choices=(odd, "no"), choice_by_member=said), now_s=0.0)

    assert tell(book, "r1", odd).accepted

    assert factors(book) == pytest.approx({"ann": math.exp(0.05), "bob": math.exp(-0.05)})


def test_feedback_for_an_ensemble_that_was_never_audited_leaves_nothing_behind() -> None:
    book = FeedbackBook()

    outcome = book.give(Feedback(request_id="r1", ensemble="\ud800", answer="yes", is_choice=True), POLICY, now_s=0.0)

    assert not outcome.was_audited
    assert book.ledger_by_ensemble == {}


def test_a_snapshot_stays_as_it_was() -> None:
    book = FeedbackBook()
    ask(book, "r1")
    ask(book, "r2")

    snapshot = book.snapshot()
    tell(book, "r1", "yes")
    ask(book, "r3")

    assert factors(snapshot) == {}
    assert [request.audit is None for request in kept_requests(snapshot)] == [False, False]
