"""A feedback book of one ensemble of three, whose questions are answered with yes or no."""

from __future__ import annotations

from collections.abc import Mapping

from ensemble.router.feedback import Audit, Feedback, FeedbackOutcome, FeedbackPolicy
from ensemble.router.feedback_book import FeedbackBook

POLICY = FeedbackPolicy(audit_share=0.05, learning_rate=0.1, max_shift=1.5)
SPLIT = {"ann": "yes", "bob": "no", "cat": "yes"}
YES_OR_NO = ("yes", "no")


def ask(book: FeedbackBook, request_id: str, choices: Mapping[str, str] = SPLIT, *, now_s: float = 0.0) -> bool:
    """Record an audit of a question with choices."""
    audit = Audit(request_id=request_id, ensemble="default", choices=YES_OR_NO, choice_by_member=choices)
    return book.record_audit(audit, now_s=now_s)


def tell(
    book: FeedbackBook,
    request_id: str,
    answer: str,
    *,
    policy: FeedbackPolicy = POLICY,
    is_choice: bool = True,
    now_s: float = 0.0,
) -> FeedbackOutcome:
    """Give a feedback."""
    feedback = Feedback(request_id=request_id, ensemble="default", answer=answer, is_choice=is_choice)
    return book.give(feedback, policy, now_s=now_s)


def factors(book: FeedbackBook, *, max_shift: float = POLICY.max_shift) -> dict[str, float]:
    """Read the factors of the only ensemble."""
    return book.factors("default", max_shift=max_shift)
