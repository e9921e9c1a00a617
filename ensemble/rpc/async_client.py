"""The Python client for asyncio; its surface is our own types, without protobuf."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ensemble.router.feedback import FeedbackOutcome
from ensemble.router.request import Event, ParameterOverrides, StreamMode, VoteOptions
from ensemble.rpc import client_events
from ensemble.rpc.client_calls import (
    DEFAULT_TIMEOUT_S,
    OPTIONS,
    classify_to_wire,
    feedback_to_wire,
    generate_to_wire,
    record_of,
    recorded,
)
from ensemble.rpc.client_channel import ClientTls, open_async_channel
from ensemble.rpc.client_events import EnsembleReport, EnsembleSummary
from ensemble.rpc.convert import stream_mode_to_wire
from ensemble.rpc.convert_vote import decision_from_wire
from ensemble.rpc.status import cancelled_at_end, own_errors
from ensemble.v1 import ensemble_service_pb2 as pb
from ensemble.v1 import ensemble_service_pb2_grpc
from ensemble.voting.decision import Decision
from ensemble.voting.record import VoteRecord

if TYPE_CHECKING:
    from ensemble.v1.ensemble_service_pb2_grpc import EnsembleServiceAsyncStub


class AsyncEnsembleClient:
    """Calls one endpoint from an event loop. Keep it: it holds one connection that all calls share.

    Every method raises the server's own error (see ``ensemble.errors``), or EndpointError when there is none.
    """

    def __init__(self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, tls: ClientTls | None = None) -> None:
        """Connect when first used, with TLS if ``tls`` is given; ``timeout_s`` is the deadline of every call.

        Raises:
            ConfigError: a file of ``tls`` cannot be used.
        """
        self._address = address
        self._timeout_s = timeout_s
        self._channel = open_async_channel(address, tls, options=OPTIONS)
        self._stub: EnsembleServiceAsyncStub = ensemble_service_pb2_grpc.EnsembleServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way end with an error."""
        await self._channel.close()

    async def generate(
        self,
        prompt: str,
        *,
        ensemble: str = "",
        parameters: ParameterOverrides = ParameterOverrides(),
        options: VoteOptions = VoteOptions(),
        request_id: str = "",
    ) -> Decision:
        """Answer a prompt with a text."""
        with own_errors(self._address):
            wire = generate_to_wire(prompt, ensemble, parameters, options=options, request_id=request_id)
            response = await self._stub.Generate(wire, timeout=self._timeout_s)
        return decision_from_wire(response.decision)

    async def generate_with_record(
        self,
        prompt: str,
        *,
        ensemble: str = "",
        parameters: ParameterOverrides = ParameterOverrides(),
        options: VoteOptions = VoteOptions(),
        request_id: str = "",
    ) -> VoteRecord:
        """Answer a prompt with a text, and tell all that led to the decision, with the request's name for feedback."""
        with own_errors(self._address):
            wire = generate_to_wire(prompt, ensemble, parameters, options=recorded(options), request_id=request_id)
            response = await self._stub.Generate(wire, timeout=self._timeout_s)
        return record_of(response)

    async def classify(
        self,
        prompt: str,
        choices: Sequence[str],
        *,
        ensemble: str = "",
        options: VoteOptions = VoteOptions(),
        request_id: str = "",
    ) -> Decision:
        """Decide among choices."""
        with own_errors(self._address):
            wire = classify_to_wire(prompt, choices, ensemble, options=options, request_id=request_id)
            response = await self._stub.Classify(wire, timeout=self._timeout_s)
        return decision_from_wire(response.decision)

    async def classify_with_record(
        self,
        prompt: str,
        choices: Sequence[str],
        *,
        ensemble: str = "",
        options: VoteOptions = VoteOptions(),
        request_id: str = "",
    ) -> VoteRecord:
        """Decide among choices, and tell all that led to the decision, with the request's name for feedback."""
        with own_errors(self._address):
            wire = classify_to_wire(prompt, choices, ensemble, options=recorded(options), request_id=request_id)
            response = await self._stub.Classify(wire, timeout=self._timeout_s)
        return record_of(response)

    async def stream_generate(
        self,
        prompt: str,
        *,
        ensemble: str = "",
        parameters: ParameterOverrides = ParameterOverrides(),
        options: VoteOptions = VoteOptions(),
        request_id: str = "",
        mode: StreamMode = StreamMode.ALL,
    ) -> AsyncGenerator[Event]:
        """Answer a prompt, telling votes, and pieces of the texts that ``mode`` names; the decision comes last."""
        with own_errors(self._address):
            call = self._stub.StreamGenerate(
                pb.StreamGenerateRequest(
                    request=generate_to_wire(prompt, ensemble, parameters, options=options, request_id=request_id),
                    mode=stream_mode_to_wire(mode),
                ),
                timeout=self._timeout_s,
            )
        with own_errors(self._address), cancelled_at_end(call):
            async for response in call:
                for event in client_events.generate_events_from_wire(response):
                    yield event

    async def stream_classify(
        self,
        prompt: str,
        choices: Sequence[str],
        *,
        ensemble: str = "",
        options: VoteOptions = VoteOptions(),
        request_id: str = "",
    ) -> AsyncGenerator[Event]:
        """Decide among choices, telling ballots and abstentions; the decision comes last."""
        with own_errors(self._address):
            call = self._stub.StreamClassify(
                pb.StreamClassifyRequest(
                    request=classify_to_wire(prompt, choices, ensemble, options=options, request_id=request_id)
                ),
                timeout=self._timeout_s,
            )
        with own_errors(self._address), cancelled_at_end(call):
            async for response in call:
                for event in client_events.classify_events_from_wire(response):
                    yield event

    async def feedback(
        self, request_id: str, answer: str, *, ensemble: str = "", is_choice: bool = True
    ) -> FeedbackOutcome:
        """Tell the right answer to a request: one of its choices, or a short answer where it had none."""
        with own_errors(self._address):
            wire = feedback_to_wire(request_id, answer, ensemble, is_choice=is_choice)
            response = await self._stub.Feedback(wire, timeout=self._timeout_s)
        return client_events.outcome_from_wire(response)

    async def list_ensembles(self) -> tuple[EnsembleSummary, ...]:
        """List the server's ensembles."""
        with own_errors(self._address):
            response = await self._stub.ListEnsembles(pb.ListEnsemblesRequest(), timeout=self._timeout_s)
        return tuple(map(client_events.summary_from_wire, response.ensembles))

    async def get_ensemble(self, ensemble: str = "") -> EnsembleReport:
        """Describe one ensemble with the state of its members."""
        with own_errors(self._address):
            response = await self._stub.GetEnsemble(pb.GetEnsembleRequest(ensemble=ensemble), timeout=self._timeout_s)
        return client_events.report_from_wire(response)
