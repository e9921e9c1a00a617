"""EnsembleService over the router."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ensemble.errors import MemberError
from ensemble.router.election import Ensemble
from ensemble.router.ensemble_router import EnsembleRouter, outcome_of
from ensemble.router.ports import MemberClient
from ensemble.router.request import TextPiece
from ensemble.router.validation import check_request_id, is_request_id, pick_ensemble
from ensemble.rpc.convert import (
    classify_request_from_wire,
    feedback_from_wire,
    generate_request_from_wire,
    stream_mode_from_wire,
)
from ensemble.rpc.convert_record import record_to_wire
from ensemble.rpc.convert_report import reports_to_wire
from ensemble.rpc.convert_vote import (
    abstention_to_wire,
    ballot_to_wire,
    decision_to_wire,
    duration_to_wire,
    voter_to_wire,
)
from ensemble.v1 import ensemble_service_pb2 as pb
from ensemble.v1 import record_pb2
from ensemble.voting.ballot import Abstention, Ballot
from ensemble.voting.decision import Decision
from ensemble.voting.record import VoteRecord

if TYPE_CHECKING:
    from ensemble.rpc.methods import Context

REQUEST_ID_KEY = "x-request-id"
"""The metadata key under which a client may name its request."""
REPORT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberEntry:
    """What the servicer tells of a member, and how it asks for more."""

    checkpoint: str
    client: MemberClient


class EnsembleServicer:
    """Converts, and lets the router work."""

    def __init__(self, router: EnsembleRouter, members: Mapping[str, MemberEntry]) -> None:
        self._router = router
        self._members = members

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:  # noqa: N802
        """Answer a prompt with a text."""
        ours = generate_request_from_wire(request, _request_id(request.request_id, context))
        events = self._router.stream_generate(ours, timeout_s=self._timeout_s(context), mode=None)
        decision, record = await outcome_of(events)
        return pb.GenerateResponse(
            request_id=ours.request_id,
            decision=decision_to_wire(decision, self._families(request.ensemble)),
            record=record_to_wire(record) if record else None,
        )

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:  # noqa: N802
        """Decide among given choices."""
        ours = classify_request_from_wire(request, _request_id(request.request_id, context))
        decision, record = await outcome_of(self._router.stream_classify(ours, timeout_s=self._timeout_s(context)))
        return pb.ClassifyResponse(
            request_id=ours.request_id,
            decision=decision_to_wire(decision, self._families(request.ensemble)),
            record=record_to_wire(record) if record else None,
        )

    async def StreamGenerate(  # noqa: N802
        self, request: pb.StreamGenerateRequest, context: Context
    ) -> AsyncGenerator[pb.StreamGenerateResponse]:
        """Answer a prompt, telling what happens."""
        ours = generate_request_from_wire(request.request, _request_id(request.request.request_id, context))
        record: record_pb2.DecisionRecord | None = None
        families = self._families(ours.ensemble)
        mode = stream_mode_from_wire(request.mode)
        events = self._router.stream_generate(ours, timeout_s=self._timeout_s(context), mode=mode)
        async with aclosing(events):
            async for event in events:
                match event:
                    case TextPiece():
                        yield pb.StreamGenerateResponse(piece=pb.TextPiece(member=event.member, text=event.text))
                    case Ballot():
                        yield pb.StreamGenerateResponse(ballot=ballot_to_wire(event, families[event.member]))
                    case Abstention():
                        yield pb.StreamGenerateResponse(abstention=abstention_to_wire(event, families[event.member]))
                    case VoteRecord():
                        record = record_to_wire(event)
                    case Decision():
                        decision = decision_to_wire(event, families)
                        response = pb.GenerateResponse(request_id=ours.request_id, decision=decision, record=record)
                        yield pb.StreamGenerateResponse(response=response)

    async def StreamClassify(  # noqa: N802
        self, request: pb.StreamClassifyRequest, context: Context
    ) -> AsyncGenerator[pb.StreamClassifyResponse]:
        """Decide among given choices, telling what happens."""
        ours = classify_request_from_wire(request.request, _request_id(request.request.request_id, context))
        record: record_pb2.DecisionRecord | None = None
        families = self._families(ours.ensemble)
        events = self._router.stream_classify(ours, timeout_s=self._timeout_s(context))
        async with aclosing(events):
            async for event in events:
                match event:
                    case Ballot():
                        yield pb.StreamClassifyResponse(ballot=ballot_to_wire(event, families[event.member]))
                    case Abstention():
                        yield pb.StreamClassifyResponse(abstention=abstention_to_wire(event, families[event.member]))
                    case TextPiece():
                        continue
                    case VoteRecord():
                        record = record_to_wire(event)
                    case Decision():
                        decision = decision_to_wire(event, families)
                        response = pb.ClassifyResponse(request_id=ours.request_id, decision=decision, record=record)
                        yield pb.StreamClassifyResponse(response=response)

    async def Feedback(self, request: pb.FeedbackRequest, context: Context) -> pb.FeedbackResponse:  # noqa: N802
        """Take the right answer to a request that was answered."""
        outcome = await self._router.give_feedback(feedback_from_wire(request))
        return pb.FeedbackResponse(
            accepted=outcome.accepted,
            was_audited=outcome.was_audited,
            already_known=outcome.already_known,
            problem=outcome.problem,
        )

    async def ListEnsembles(  # noqa: N802
        self, request: pb.ListEnsemblesRequest, context: Context
    ) -> pb.ListEnsemblesResponse:
        """List all ensembles."""
        return pb.ListEnsemblesResponse(ensembles=map(_summary, self._router.ensemble_by_name.values()))

    async def GetEnsemble(  # noqa: N802
        self, request: pb.GetEnsembleRequest, context: Context
    ) -> pb.GetEnsembleResponse:
        """Describe one ensemble."""
        ensemble = pick_ensemble(request.ensemble, self._router.ensemble_by_name)
        async with asyncio.TaskGroup() as group:
            states = [group.create_task(self._state(voter.member)) for voter in ensemble.voters]
        return pb.GetEnsembleResponse(
            ensemble=_summary(ensemble),
            members=[state.result() for state in states],
            member_timeout=duration_to_wire(self._router.limits.member_timeout_s),
        )

    async def _state(self, member: str) -> pb.MemberState:
        entry = self._members[member]
        try:
            reports = await entry.client.reports(timeout_s=REPORT_TIMEOUT_S)
        except MemberError as error:
            return pb.MemberState(member=member, checkpoint=entry.checkpoint, problem=error.problem)
        return reports_to_wire(member, entry.checkpoint, reports)

    def _families(self, ensemble: str) -> Mapping[str, str]:
        voters = pick_ensemble(ensemble, self._router.ensemble_by_name).voters
        return {voter.member: voter.family for voter in voters}

    def _timeout_s(self, context: Context) -> float:
        remaining_s = context.time_remaining()
        return self._router.limits.request_timeout_s if remaining_s is None else remaining_s


def _summary(ensemble: Ensemble) -> pb.EnsembleSummary:
    return pb.EnsembleSummary(
        name=ensemble.name,
        members=map(voter_to_wire, ensemble.voters),
        classify_strategy=ensemble.classify_strategy,
        generate_strategy=ensemble.generate_strategy,
    )


def _request_id(given: str, context: Context) -> str:
    if given:
        check_request_id(given)
        return given
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and is_request_id(value):
            return value
    return uuid.uuid4().hex
