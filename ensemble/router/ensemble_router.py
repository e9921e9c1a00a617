"""The router: from a request to a decision, whatever happens to the members on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from ensemble.errors import ConfigError, OverloadedError
from ensemble.router.conclusion import Concluder
from ensemble.router.config import LimitsConfig
from ensemble.router.election import Election, ElectionBuilder, Ensemble
from ensemble.router.fan_out import FanOut
from ensemble.router.feedback import Feedback, FeedbackOutcome, OnlineWeights, build_audit
from ensemble.router.hearing import Hearing
from ensemble.router.one_stream import OneStream
from ensemble.router.ports import MemberClient, Observer, VotingClient
from ensemble.router.request import ClassifyRequest, Event, GenerateRequest, StreamMode
from ensemble.router.running_vote import RunningVote
from ensemble.router.validation import check_request_id, pick_ensemble
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.record import VoteRecord

_log = logging.getLogger(__name__)


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
        online: OnlineWeights | None = None,
    ) -> None:
        self.ensemble_by_name = {ensemble.name: ensemble for ensemble in ensembles}
        self.limits = limits
        self._elections = ElectionBuilder(client_by_member=clients, limits=limits, online=online)
        self._concluder = Concluder(client_by_member=clients, voting=voting)
        self._observer = observer
        self._online = online
        self._num_under_way = 0

    async def classify(self, request: ClassifyRequest, *, timeout_s: float) -> Decision:
        """Decide among the request's choices.

        Raises:
            InvalidRequestError: a field is bad.
            OverloadedError: too many requests are under way.
            QuorumError: too few members gave a ballot.
            VotingUnavailableError: the strategy is heavy and the voting service did not answer.
            MemberError: the strategy asks models a second time, and one of them failed.
        """
        return (await outcome_of(self.stream_classify(request, timeout_s=timeout_s)))[0]

    async def generate(self, request: GenerateRequest, *, timeout_s: float) -> Decision:
        """Answer a prompt with a text. Raises as ``classify`` does."""
        return (await outcome_of(self.stream_generate(request, timeout_s=timeout_s, mode=None)))[0]

    def stream_classify(self, request: ClassifyRequest, *, timeout_s: float) -> AsyncGenerator[Event]:
        """Decide among the request's choices, telling ballots as they come. Raises as ``classify`` does."""
        ensemble = pick_ensemble(request.ensemble, self.ensemble_by_name)
        prepare = self._elections.classification
        election = partial(prepare, request, ensemble, timeout_s=timeout_s)
        return self._run(request.request_id, ensemble, election)

    def stream_generate(
        self, request: GenerateRequest, *, timeout_s: float, mode: StreamMode | None = StreamMode.ALL
    ) -> AsyncGenerator[Event]:
        """Answer a prompt, telling ballots as they come, and pieces of text as ``mode`` says; None tells none.

        Raises as ``classify`` does.
        """
        ensemble = pick_ensemble(request.ensemble, self.ensemble_by_name)
        prepare = self._elections.generation
        election = partial(prepare, request, ensemble, timeout_s=timeout_s, mode=mode)
        return self._run(request.request_id, ensemble, election)

    async def give_feedback(self, feedback: Feedback) -> FeedbackOutcome:
        """Learn from the right answer to a request; an empty ensemble's name means the default one.

        Raises:
            InvalidRequestError: a field is bad, or the answer does not fit the request.
            ConfigError: the ensemble learns nothing from feedback.
            FeedbackUnavailableError: what keeps the feedback does not answer.
        """
        check_request_id(feedback.request_id)
        ensemble = pick_ensemble(feedback.ensemble, self.ensemble_by_name).name
        if self._online is None:
            where = f"ensembles.{ensemble}.feedback"
            raise ConfigError(where, "the ensemble takes no feedback", "let the spec say how it learns from it")
        return await self._online.give(replace(feedback, ensemble=ensemble))

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
        vote, stream = RunningVote(election), OneStream(election)
        async with FanOut(election.asks, first=vote.next_stage()) as fan_out:
            hearing = Hearing(vote, stream, fan_out)
            timeout_s = election.members_until_s - election.started_s
            num_turns = len(election.plan.stages) if election.plan else 1
            async with aclosing(fan_out.events(timeout_s=timeout_s, num_turns=num_turns)) as events:
                async for event in events:
                    if event is None:
                        hearing.next_turn()
                        continue
                    told = hearing.take(event)
                    if told is not None:
                        yield told
                    if hearing.is_over:
                        break
            hearing.end()
        for abstention in hearing.stopped:
            vote.add(abstention)
            yield abstention
        record = stream.mark(await self._conclude(vote, vote.run_out()))
        if election.include_record:
            yield record
        yield record.decision

    async def _conclude(self, vote: RunningVote, decided_by: DecidedBy) -> VoteRecord:
        record = await self._concluder.conclude(vote, decided_by)
        if self._online is not None and vote.election.is_audited:
            choices = record.question.choices
            audit = build_audit(vote.counted, request_id=record.request_id, ensemble=record.ensemble, choices=choices)
            self._online.report(audit)
        return record


async def outcome_of(events: AsyncGenerator[Event]) -> tuple[Decision, VoteRecord | None]:
    """Read a stream to its end: the decision, and its record if the request asked for it."""
    record: VoteRecord | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Decision):
                return event, record
            if isinstance(event, VoteRecord):
                record = event
    raise AssertionError("a vote ends with a decision or an error")
