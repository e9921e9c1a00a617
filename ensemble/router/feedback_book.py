"""The audits that wait for their feedback, and the weights learned from those that had it."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from ensemble.errors import InvalidRequestError
from ensemble.router.feedback import Audit, Feedback, FeedbackOutcome, FeedbackPolicy
from ensemble.voting.hedge import hedge_weights
from ensemble.voting.short_answer import normalise_answer

MAX_REQUESTS = 10_000
"""Audited requests that are remembered, of one ensemble; the oldest goes first."""
MAX_AGE_S = 7 * 86_400.0
MAX_CHOICES = 64
"""Of a request with more choices none is remembered: a right answer that is no choice at all is not noticed then."""
DIGEST_BYTES = 8

_NEVER_AUDITED = FeedbackOutcome(
    accepted=False,
    was_audited=False,
    already_known=False,
    problem="the request was not audited, or so long ago that it is forgotten",
)
_KNOWN = FeedbackOutcome(accepted=False, was_audited=True, already_known=True)
_LEARNED = FeedbackOutcome(accepted=True, was_audited=True, already_known=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDigest:
    """What of an audit teaches: the digest of each member's choice, and of each choice, if they are not too many.

    Nothing but equality matters, so that the texts, however long, need not be kept; see ``digest_text``.
    """

    is_choice: bool
    digest_by_member: Mapping[str, str]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedRequest:
    """A request that was audited at a time in seconds since 1970; ``audit`` is None once its feedback came."""

    audited_at_s: float
    audit: AuditDigest | None


@dataclass(slots=True, kw_only=True)
class EnsembleLedger:
    """One ensemble's part of the book: the logarithm of each weight's factor, and audited requests, oldest first."""

    shift_by_member: dict[str, float] = field(default_factory=dict)
    request_by_id: OrderedDict[str, AuditedRequest] = field(default_factory=OrderedDict)


class FeedbackBook:
    """Learns by full-information Hedge (Freund & Schapire 1997) with a bound: see ``hedge_weights``.

    Only audits teach: an early stop hides votes exactly where members agree, so that other requests would teach a
    skewed lesson. A ballot for the right answer has loss 0 and one for another has loss 1. Who abstained sleeps: it
    is given the mean loss of those who voted, which moves nothing, so that abstaining equals being absent (Freund,
    Schapire, Singer & Warmuth 1997, "Using and combining predictors that specialize").

    Each request counts once, whatever is told of it later. Times are in seconds since 1970. How much is kept of a
    request does not depend on how long its texts are.
    """

    def __init__(
        self,
        ledgers: Mapping[str, EnsembleLedger] | None = None,
        *,
        max_requests: int = MAX_REQUESTS,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self._ledger_by_ensemble = dict(ledgers or {})
        self._max_requests = max_requests
        self._max_age_s = max_age_s

    @property
    def ledger_by_ensemble(self) -> Mapping[str, EnsembleLedger]:
        """All that the book knows; not to be changed."""
        return self._ledger_by_ensemble

    def snapshot(self) -> FeedbackBook:
        """Copy the book as it is now, cheaply: for another thread to read while this one goes on."""
        ledgers = {
            ensemble: EnsembleLedger(
                shift_by_member=ledger.shift_by_member.copy(), request_by_id=ledger.request_by_id.copy()
            )
            for ensemble, ledger in self._ledger_by_ensemble.items()
        }
        return FeedbackBook(ledgers, max_requests=self._max_requests, max_age_s=self._max_age_s)

    def record_audit(self, audit: Audit, *, now_s: float) -> bool:
        """Keep an audit; False when there is one of this request already.

        Raises:
            InvalidRequestError: the request's name, the ensemble's or a member's cannot be written down.
        """
        _check_names(audit)
        requests = self._ledger(audit.ensemble, now_s).request_by_id
        if audit.request_id in requests:
            return False
        requests[audit.request_id] = AuditedRequest(audited_at_s=now_s, audit=_digest_audit(audit))
        if len(requests) > self._max_requests:
            requests.popitem(last=False)
        return True

    def give(self, feedback: Feedback, policy: FeedbackPolicy, *, now_s: float) -> FeedbackOutcome:
        """Learn from a feedback, if its request was audited and had none before.

        Raises:
            InvalidRequestError: the answer is of the wrong kind, empty, or none of the choices.
        """
        if feedback.ensemble not in self._ledger_by_ensemble:
            return _NEVER_AUDITED
        ledger = self._ledger(feedback.ensemble, now_s)
        request = ledger.request_by_id.get(feedback.request_id)
        if request is None:
            return _NEVER_AUDITED
        if request.audit is None:
            return _KNOWN
        losses = _losses(request.audit, feedback)
        shifts = {member: ledger.shift_by_member.get(member, 0.0) for member in losses}
        ledger.shift_by_member |= hedge_weights(shifts, losses, eta=policy.learning_rate, max_shift=policy.max_shift)
        ledger.request_by_id[feedback.request_id] = AuditedRequest(audited_at_s=request.audited_at_s, audit=None)
        return _LEARNED

    def factors(self, ensemble: str, *, max_shift: float) -> dict[str, float]:
        """Give the factor of each member's weight, within the bound whatever the book held when it was larger."""
        ledger = self._ledger_by_ensemble.get(ensemble, EnsembleLedger())
        return {
            member: math.exp(min(max(shift, -max_shift), max_shift)) for member, shift in ledger.shift_by_member.items()
        }

    def _ledger(self, ensemble: str, now_s: float) -> EnsembleLedger:
        """Find an ensemble's ledger, without what is too old."""
        ledger = self._ledger_by_ensemble.setdefault(ensemble, EnsembleLedger())
        requests = ledger.request_by_id
        while requests and next(iter(requests.values())).audited_at_s < now_s - self._max_age_s:
            requests.popitem(last=False)
        return ledger


def digest_text(text: str) -> str:
    """Give 64 bits of a text's BLAKE2b in hexadecimal; any string has one, also one that is not Unicode."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()


def _digest_audit(audit: Audit) -> AuditDigest:
    is_choice = bool(audit.choices)
    return AuditDigest(
        is_choice=is_choice,
        digest_by_member={
            member: digest_text(choice if is_choice else normalise_answer(choice))
            for member, choice in audit.choice_by_member.items()
        },
        choices=tuple(map(digest_text, audit.choices)) if len(audit.choices) <= MAX_CHOICES else (),
    )


def _check_names(audit: Audit) -> None:
    """Refuse half of a surrogate pair: JSON that has one cannot be read again."""
    for name in (audit.request_id, audit.ensemble, *audit.choice_by_member):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError("audit", f"the name {name!r} is not Unicode", "give it another name") from error


def _losses(audit: AuditDigest, feedback: Feedback) -> dict[str, float]:
    """Say who was wrong, with 1; those who abstained are not there."""
    if feedback.is_choice != audit.is_choice:
        kind = "one of the request's choices" if audit.is_choice else "a text: the request had no choices"
        raise InvalidRequestError("answer", "it is of the wrong kind for this request", f"give {kind}")
    answer = feedback.answer if audit.is_choice else normalise_answer(feedback.answer)
    if not audit.is_choice and not answer:
        raise InvalidRequestError("answer.text", "nothing is left of it when it is normalised", "give an answer")
    right = digest_text(answer)
    if audit.choices and right not in audit.choices:
        problem = f"{feedback.answer!r} is none of the request's choices"
        raise InvalidRequestError("answer.choice", problem, "give one of them as it was written")
    return {member: float(digest != right) for member, digest in audit.digest_by_member.items()}
