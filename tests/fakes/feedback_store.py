"""A feedback store in memory, which can be away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from ensemble.errors import FeedbackUnavailableError
from ensemble.router.feedback import Audit, Feedback, FeedbackOutcome, FeedbackPolicy
from ensemble.router.feedback_book import FeedbackBook


@dataclass(slots=True, kw_only=True)
class FakeFeedbackStore:
    """A FeedbackStore without a file. ``is_away`` makes every call fail; ``takes_audits`` holds audits up."""

    policy_by_ensemble: Mapping[str, FeedbackPolicy]
    book: FeedbackBook = field(default_factory=FeedbackBook)
    is_away: bool = False
    takes_audits: asyncio.Event = field(default_factory=asyncio.Event)
    audits: list[Audit] = field(default_factory=list)
    num_weights_calls: int = 0

    def __post_init__(self) -> None:
        self.takes_audits.set()

    async def record_audit(self, audit: Audit) -> None:
        """Keep an audit."""
        await self.takes_audits.wait()
        self._check()
        self.audits.append(audit)
        self.book.record_audit(audit, now_s=0.0)

    async def give(self, feedback: Feedback) -> FeedbackOutcome:
        """Learn from a feedback."""
        self._check()
        return self.book.give(feedback, self.policy_by_ensemble[feedback.ensemble], now_s=0.0)

    async def weights(self, ensemble: str) -> Mapping[str, float]:
        """Give the factor of each member's weight."""
        self.num_weights_calls += 1
        self._check()
        return self.book.factors(ensemble, max_shift=self.policy_by_ensemble[ensemble].max_shift)

    def _check(self) -> None:
        if self.is_away:
            raise FeedbackUnavailableError("it is away")
