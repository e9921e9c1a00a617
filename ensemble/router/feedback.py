"""What clients tell of right answers, on requests that were audited, and the weights that a router learns from it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from ensemble.errors import ConfigError, FeedbackUnavailableError, InvalidRequestError
from ensemble.voting.ballot import Ballot, Vote, Voter

_log = logging.getLogger(__name__)

REFRESH_S = 2.0
"""A router's weights are this old at most, and a call an ensemble to the store, while the store answers."""
MAX_QUEUED = 1_000
"""Audits that wait for the store; more are dropped and counted."""
GIVE_TRIES = 3
GIVE_PAUSE_S = 0.3
"""An audit may reach the store a moment after the client has its answer: another replica may be sending it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackPolicy:
    """How one ensemble learns from feedback.

    ``audit_share`` of the requests, in [0, 1], is audited. One feedback moves the logarithm of a weight by
    ``learning_rate`` at most, and no feedback moves it further than ``max_shift`` from where it began; both are
    above 0.
    """

    audit_share: float
    learning_rate: float
    max_shift: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What every member said on a request that nobody's vote was spared on.

    ``choices`` is empty for short answers, which are compared by their normalised form. ``choice_by_member`` lacks
    those who abstained.
    """

    request_id: str
    ensemble: str
    choice_by_member: Mapping[str, str]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """The right answer to a request: one of its choices where ``is_choice``, else a short answer."""

    request_id: str
    ensemble: str
    answer: str
    is_choice: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackOutcome:
    """What became of a feedback.

    ``accepted``: it counts from now on. ``already_known``: an earlier one counts, and this one changed nothing. With
    neither, ``problem`` says why it does not count.
    """

    accepted: bool
    was_audited: bool
    already_known: bool
    problem: str = ""


class FeedbackStore(Protocol):
    """Keeps an application's audits and weights, for all router replicas, over restarts.

    Every method may be repeated, and raises FeedbackUnavailableError when the store does not answer in time.
    """

    async def record_audit(self, audit: Audit) -> None:
        """Keep an audit until its feedback comes, or it is too old; the first of a request's audits counts.

        Raises:
            InvalidRequestError: a name in it cannot be written down.
        """
        ...

    async def give(self, feedback: Feedback) -> FeedbackOutcome:
        """Learn from a feedback; what counts has been written down when this returns.

        Raises:
            InvalidRequestError: the answer is of the wrong kind, empty, or none of the choices.
        """
        ...

    async def weights(self, ensemble: str) -> Mapping[str, float]:
        """Give the factor of each member's weight; a member that is not there has 1.

        With ``max_shift`` of the ensemble's policy, each lies in [exp(-max_shift), exp(max_shift)].
        """
        ...


def build_audit(votes: Iterable[Vote], *, request_id: str, ensemble: str, choices: tuple[str, ...] = ()) -> Audit:
    """Make the audit of a full panel's votes, as the tally counted them."""
    return Audit(
        request_id=request_id,
        ensemble=ensemble,
        choices=choices,
        choice_by_member={
            vote.member: vote.choice for vote in votes if isinstance(vote, Ballot) and vote.choice is not None
        },
    )


def apply_factors(panel: tuple[Voter, ...], factor_by_member: Mapping[str, float]) -> tuple[Voter, ...]:
    """Multiply the voters' weights; a weight keeps its sign."""
    if not factor_by_member:
        return panel
    return tuple(replace(voter, weight=voter.weight * factor_by_member.get(voter.member, 1.0)) for voter in panel)


class AuditChoice:
    """Chooses the requests that are audited.

    By a keyed digest of the request id: all replicas choose alike, and a client that names its requests itself cannot
    tell beforehand which names are chosen.
    """

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(f"audits\n{secret}".encode()).digest()

    def is_audited(self, request_id: str, *, share: float) -> bool:
        """Say whether a request is among the ``share`` that is audited; what is, is so for every greater share."""
        digest = hashlib.blake2b(request_id.encode(errors="surrogatepass"), key=self._key, digest_size=8).digest()
        return int.from_bytes(digest) < share * 2**64


class OnlineWeights:
    """One router replica's view of the store: reading costs a look into a mapping, and nothing here delays an answer.

    Weights are refreshed every ``refresh_s``; while the store is away the last ones stay. Audits go to the store in
    the background. An ensemble without a policy is never audited and has no factors.
    """

    def __init__(
        self,
        store: FeedbackStore,
        policy_by_ensemble: Mapping[str, FeedbackPolicy],
        *,
        secret: str,
        refresh_s: float = REFRESH_S,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self._store = store
        self._policy_by_ensemble = policy_by_ensemble
        self._choice = AuditChoice(secret)
        self._refresh_s = refresh_s
        self._factors_by_ensemble: dict[str, Mapping[str, float]] = {}
        self._audits: asyncio.Queue[Audit] = asyncio.Queue(max_queued)
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._num_dropped = 0

    @property
    def num_dropped(self) -> int:
        """Audits that did not reach the store: too many waited, or it was away or refused them."""
        return self._num_dropped

    def takes_feedback(self, ensemble: str) -> bool:
        """Say whether an ensemble learns from feedback."""
        return ensemble in self._policy_by_ensemble

    def is_audited(self, request_id: str, ensemble: str) -> bool:
        """Say whether every member must vote on this request, whatever could have been spared."""
        policy = self._policy_by_ensemble.get(ensemble)
        return policy is not None and self._choice.is_audited(request_id, share=policy.audit_share)

    def factors(self, ensemble: str) -> Mapping[str, float]:
        """Give what each member's weight is multiplied with; a member that is not there has 1."""
        return self._factors_by_ensemble.get(ensemble, {})

    async def start(self) -> None:
        """Get the weights, if the store answers, and begin to keep them fresh."""
        await self._refresh()
        self._tasks = (
            asyncio.create_task(self._keep_fresh(), name="feedback weights"),
            asyncio.create_task(self._tell_audits(), name="feedback audits"),
        )

    async def stop(self, *, grace_s: float) -> None:
        """Tell the audits that wait, for ``grace_s`` at most, and end."""
        if self._tasks:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._audits.join(), grace_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._num_dropped += self._audits.qsize()
        self._tasks = ()

    async def check_health(self) -> None:
        """Raise what ended a task that should run as long as this replica."""
        for task in self._tasks:
            if task.done():
                task.result()

    def report(self, audit: Audit) -> None:
        """Hand over an audit; returns at once."""
        try:
            self._audits.put_nowait(audit)
        except asyncio.QueueFull:
            self._num_dropped += 1

    async def give(self, feedback: Feedback) -> FeedbackOutcome:
        """Give a feedback to the store, and wait a moment for an audit that is still on its way.

        Raises:
            ConfigError: the ensemble learns nothing from feedback.
            FeedbackUnavailableError: the store does not answer.
            InvalidRequestError: the answer does not fit the request.
        """
        if not self.takes_feedback(feedback.ensemble):
            where = f"ensembles.{feedback.ensemble}.feedback"
            raise ConfigError(where, "the ensemble takes no feedback", "let the spec say how it learns from it")
        outcome = await self._store.give(feedback)
        for _ in range(GIVE_TRIES - 1):
            if outcome.was_audited or not self.is_audited(feedback.request_id, feedback.ensemble):
                break
            await asyncio.sleep(GIVE_PAUSE_S)
            outcome = await self._store.give(feedback)
        return outcome

    async def _refresh(self) -> None:
        try:
            for ensemble in self._policy_by_ensemble:
                self._factors_by_ensemble[ensemble] = await self._store.weights(ensemble)
        except FeedbackUnavailableError as error:
            _log.warning("the ensembles keep the weights that they have: %s", error.problem)

    async def _keep_fresh(self) -> None:
        num_told = 0
        while True:
            await asyncio.sleep(self._refresh_s)
            await self._refresh()
            if self._num_dropped > num_told:
                _log.warning("%d audits did not reach the feedback store", self._num_dropped - num_told)
                num_told = self._num_dropped

    async def _tell_audits(self) -> None:
        while True:
            audit = await self._audits.get()
            is_told = False
            try:
                await self._store.record_audit(audit)
                is_told = True
            except (FeedbackUnavailableError, InvalidRequestError) as error:
                _log.debug("an audit is dropped: %s", error.problem)
            finally:
                self._num_dropped += not is_told
                self._audits.task_done()
