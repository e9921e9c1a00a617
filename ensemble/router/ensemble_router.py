"""The router: from a request to a decision, whatever happens to the members on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from ensemble.errors import InvalidRequestError, OverloadedError, QuorumError
from ensemble.router.config import LimitsConfig
from ensemble.router.election import Election, ElectionBuilder, Ensemble
from ensemble.router.fan_out import FanOut
from ensemble.router.ports import MemberClient, Observer, VotingClient
from ensemble.router.request import ClassifyRequest, Event, GenerateRequest, TextPiece
from ensemble.router.validation import pick_ensemble
from ensemble.voting.ballot import Abstention, AbstentionReason, Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.strategy import Tally

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Count:
    """The state of one vote: the tally, and the votes in the order they came."""

    tally: Tally
    votes: list[Vote] = field(default_factory=list)

    def add(self, vote: Vote) -> Vote:
        """Count one vote, a faulty ballot as the member's error; returns it as it was counted."""
        try:
            self.tally = self.tally.add(vote)
        except InvalidRequestError as error:
            vote = Abstention(
                member=vote.member, reason=AbstentionReason.ERROR, detail=str(error), latency_s=vote.latency_s
            )
            self.tally = self.tally.add(vote)
        counted = self.tally.vote_of(vote.member)
        self.votes.append(counted)
        return counted


class EnsembleRouter:
    """Answers requests with the vote of an ensemble's members. One event loop; many requests at a time."""

    def __init__(
        self,
        ensembles: Sequence[Ensemble],
        clients: Mapping[str, MemberClient],
        voting: VotingClient,
        *,
        limits: LimitsConfig,
        observer: Observer,
    ) -> None:
        self.ensemble_by_name = {ensemble.name: ensemble for ensemble in ensembles}
        self.limits = limits
        self._elections = ElectionBuilder(client_by_member=clients, limits=limits)
        self._voting = voting
        self._observer = observer
        self._num_under_way = 0

    async def classify(self, request: ClassifyRequest, *, timeout_s: float) -> Decision:
        """Decide among the request's choices.

        Raises:
            InvalidRequestError: a field is bad.
            OverloadedError: too many requests are under way.
            QuorumError: too few members gave a ballot.
            VotingUnavailableError: the strategy is heavy and the voting service did not answer.
        """
        return await _last(self.stream_classify(request, timeout_s=timeout_s))

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> Decision:
        """Answer a prompt with a text. Raises as ``classify`` does."""
        ensemble = pick_ensemble(request.ensemble, self.ensemble_by_name)
        prepare = self._elections.generation
        return await _last(
            self._run(
                request.request_id, ensemble, lambda: prepare(request, ensemble, timeout_s=timeout_s, streams=False)
            )
        )

    def stream_classify(self, request: ClassifyRequest, *, timeout_s: float) -> AsyncGenerator[Event]:
        """Decide among the request's choices, telling ballots as they come. Raises as ``classify`` does."""
        ensemble = pick_ensemble(request.ensemble, self.ensemble_by_name)
        prepare = self._elections.classification
        election = partial(prepare, request, ensemble, timeout_s=timeout_s)
        return self._run(request.request_id, ensemble, election)

    def stream_generate(self, request: GenerateRequest, *, timeout_s: float) -> AsyncGenerator[Event]:
        """Answer a prompt, telling pieces of text and ballots as they come. Raises as ``classify`` does."""
        ensemble = pick_ensemble(request.ensemble, self.ensemble_by_name)
        prepare = self._elections.generation
        return self._run(
            request.request_id, ensemble, lambda: prepare(request, ensemble, timeout_s=timeout_s, streams=True)
        )

    async def _run(self, request_id: str, ensemble: Ensemble, prepare: Callable[[], Election]) -> AsyncGenerator[Event]:
        started_s = time.monotonic()
        if self._num_under_way >= self.limits.max_concurrent:
            self._observer.observe_failure(ensemble.name, OverloadedError.__name__)
            raise OverloadedError(self.limits.max_concurrent)
        self._num_under_way += 1
        try:
            async with aclosing(self._vote(prepare())) as events:
                async for event in events:
                    if isinstance(event, Decision):
                        latency_s = time.monotonic() - started_s
                        self._observer.observe_decision(ensemble.name, event, latency_s=latency_s)
                        _log.info("request %s: %s in %.3f s", request_id, event.decided_by, latency_s)
                    yield event
        except (Exception, asyncio.CancelledError) as error:
            self._observer.observe_failure(ensemble.name, type(error).__name__)
            _log.info("request %s: %s", request_id, type(error).__name__)
            raise
        finally:
            self._num_under_way -= 1

    async def _vote(self, election: Election) -> AsyncGenerator[Event]:
        count = _Count(election.strategy.open_tally(election.question))
        stopped: tuple[Abstention, ...] = ()
        async with FanOut(election.asks) as fan_out:
            timeout_s = election.members_until_s - election.started_s
            async with aclosing(fan_out.events(timeout_s=timeout_s)) as events:
                async for event in events:
                    if isinstance(event, TextPiece):
                        yield event
                        continue
                    counted = count.add(event)
                    is_decided = count.tally.is_decided()
                    if is_decided:
                        # Before the vote is handed over: a slow reader must not keep members decoding.
                        stopped = fan_out.stop(count.tally.waiting, reason=AbstentionReason.CANCELLED)
                    yield counted
                    if is_decided:
                        break
            decided_by = _decided_by(count)
            if decided_by is DecidedBy.DEADLINE:
                stopped = fan_out.stop(count.tally.waiting, reason=AbstentionReason.DEADLINE)
        for abstention in stopped:
            count.add(abstention)
            yield abstention
        yield await self._decide(election, count, decided_by)

    async def _decide(self, election: Election, count: _Count, decided_by: DecidedBy) -> Decision:
        if not count.tally.num_cast:
            raise self._no_quorum(election, count)
        if election.strategy.is_heavy:
            decision = await self._voting.decide(
                election.strategy.name,
                election.question,
                tuple(count.votes),
                timeout_s=max(0.001, election.until_s - time.monotonic()),
            )
        else:
            decision = count.tally.decide(decided_by)
        if decision.degraded and election.ensemble.fail_without_quorum:
            raise self._no_quorum(election, count)
        return decision

    @staticmethod
    def _no_quorum(election: Election, count: _Count) -> QuorumError:
        reason_by_member = {vote.member: vote.reason for vote in count.votes if isinstance(vote, Abstention)}
        silent = (voter.member for voter in election.question.panel if voter.member in reason_by_member)
        reasons = ", ".join(f"{member}: {reason_by_member[member]}" for member in silent)
        wanted = election.question.quorum
        reasons = reasons or f"the quorum is {wanted.min_weight:g} of the weight and {wanted.min_families} families"
        return QuorumError(election.ensemble.name, count.tally.num_cast, len(election.question.panel), reasons)


def _decided_by(count: _Count) -> DecidedBy:
    """Say what ended a vote, before those still out are stopped."""
    was_late = any(isinstance(vote, Abstention) and vote.reason is AbstentionReason.DEADLINE for vote in count.votes)
    if count.tally.waiting:
        return DecidedBy.LOSSLESS_QUORUM if count.tally.is_decided() else DecidedBy.DEADLINE
    return DecidedBy.DEADLINE if was_late else DecidedBy.ALL


async def _last(events: AsyncGenerator[Event]) -> Decision:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Decision):
                return event
    raise AssertionError("a vote ends with a decision or an error")
