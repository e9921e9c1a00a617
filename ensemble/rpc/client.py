"""The Python client, for asyncio and for threads; its surface is our own types, without protobuf.

>>> with EnsembleClient("localhost:9000") as client:  # doctest: +SKIP
...     decision = client.classify("Is the sky blue?", ["yes", "no"])
...     decision.answer, decision.agreement
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from ensemble.router.request import ClassifyRequest, Event, GenerateRequest, ParameterOverrides, VoteOptions
from ensemble.rpc import client_events
from ensemble.rpc.client_events import EnsembleReport, EnsembleSummary
from ensemble.rpc.convert import classify_request_to_wire, generate_request_to_wire
from ensemble.rpc.convert_vote import decision_from_wire
from ensemble.rpc.status import cancelled_at_end, own_errors
from ensemble.v1 import ensemble_service_pb2 as pb
from ensemble.v1 import ensemble_service_pb2_grpc
from ensemble.voting.decision import Decision

if TYPE_CHECKING:
    from ensemble.v1.ensemble_service_pb2_grpc import EnsembleServiceAsyncStub

DEFAULT_TIMEOUT_S = 60.0
_RETRY_UNAVAILABLE = {
    "methodConfig": [
        {
            "name": [{"service": "ensemble.v1.EnsembleService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                # CANCELLED is what gRPC's server says to calls that it has not begun when it stops.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    "loadBalancingConfig": [{"round_robin": {}}],
}
_OPTIONS = (
    ("grpc.service_config", json.dumps(_RETRY_UNAVAILABLE)),
    ("grpc.max_receive_message_length", -1),
    # Its own: shared by address, it would inherit the pause that another client's refused connection asked for.
    ("grpc.use_local_subchannel_pool", 1),
)


def _generate(prompt: str, ensemble: str, parameters: ParameterOverrides, options: VoteOptions) -> pb.GenerateRequest:
    request = GenerateRequest(request_id="", ensemble=ensemble, prompt=prompt, parameters=parameters, options=options)
    return generate_request_to_wire(request)


def _classify(prompt: str, choices: Sequence[str], ensemble: str, options: VoteOptions) -> pb.ClassifyRequest:
    request = ClassifyRequest(request_id="", ensemble=ensemble, prompt=prompt, choices=tuple(choices), options=options)
    return classify_request_to_wire(request)


class AsyncEnsembleClient:
    """Calls one endpoint from an event loop. Keep it: it holds one connection that all calls share.

    Every method raises the server's own error (see ``ensemble.errors``), or EndpointError when there is none.
    """

    def __init__(self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Connect when first used; ``timeout_s`` is the deadline of every call."""
        self._address = address
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
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
    ) -> Decision:
        """Answer a prompt with a text."""
        with own_errors(self._address):
            response = await self._stub.Generate(
                _generate(prompt, ensemble, parameters, options), timeout=self._timeout_s
            )
        return decision_from_wire(response.decision)

    async def classify(
        self,
        prompt: str,
        choices: Sequence[str],
        *,
        ensemble: str = "",
        options: VoteOptions = VoteOptions(),
    ) -> Decision:
        """Decide among choices."""
        with own_errors(self._address):
            response = await self._stub.Classify(_classify(prompt, choices, ensemble, options), timeout=self._timeout_s)
        return decision_from_wire(response.decision)

    async def stream_generate(
        self,
        prompt: str,
        *,
        ensemble: str = "",
        parameters: ParameterOverrides = ParameterOverrides(),
        options: VoteOptions = VoteOptions(),
    ) -> AsyncGenerator[Event]:
        """Answer a prompt, telling pieces of text, ballots and abstentions; the decision comes last."""
        with own_errors(self._address):
            call = self._stub.StreamGenerate(
                pb.StreamGenerateRequest(request=_generate(prompt, ensemble, parameters, options)),
                timeout=self._timeout_s,
            )
        with own_errors(self._address), cancelled_at_end(call):
            async for response in call:
                yield client_events.generate_event_from_wire(response)

    async def stream_classify(
        self,
        prompt: str,
        choices: Sequence[str],
        *,
        ensemble: str = "",
        options: VoteOptions = VoteOptions(),
    ) -> AsyncGenerator[Event]:
        """Decide among choices, telling ballots and abstentions; the decision comes last."""
        with own_errors(self._address):
            call = self._stub.StreamClassify(
                pb.StreamClassifyRequest(request=_classify(prompt, choices, ensemble, options)), timeout=self._timeout_s
            )
        with own_errors(self._address), cancelled_at_end(call):
            async for response in call:
                yield client_events.classify_event_from_wire(response)

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


class EnsembleClient:
    """Calls one endpoint from any thread; the same surface as AsyncEnsembleClient, blocking."""

    def __init__(self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Connect when first used; ``timeout_s`` is the deadline of every call."""
        self._address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub = ensemble_service_pb2_grpc.EnsembleServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with an error."""
        self._channel.close()

    def generate(
        self,
        prompt: str,
        *,
        ensemble: str = "",
        parameters: ParameterOverrides = ParameterOverrides(),
        options: VoteOptions = VoteOptions(),
    ) -> Decision:
        """Answer a prompt with a text."""
        with own_errors(self._address):
            response = self._stub.Generate(_generate(prompt, ensemble, parameters, options), timeout=self._timeout_s)
        return decision_from_wire(response.decision)

    def classify(
        self,
        prompt: str,
        choices: Sequence[str],
        *,
        ensemble: str = "",
        options: VoteOptions = VoteOptions(),
    ) -> Decision:
        """Decide among choices."""
        with own_errors(self._address):
            response = self._stub.Classify(_classify(prompt, choices, ensemble, options), timeout=self._timeout_s)
        return decision_from_wire(response.decision)

    def stream_generate(
        self,
        prompt: str,
        *,
        ensemble: str = "",
        parameters: ParameterOverrides = ParameterOverrides(),
        options: VoteOptions = VoteOptions(),
    ) -> Iterator[Event]:
        """Answer a prompt, telling pieces of text, ballots and abstentions; the decision comes last."""
        with own_errors(self._address):
            call = self._stub.StreamGenerate(
                pb.StreamGenerateRequest(request=_generate(prompt, ensemble, parameters, options)),
                timeout=self._timeout_s,
            )
        with own_errors(self._address), cancelled_at_end(call):
            for response in call:
                yield client_events.generate_event_from_wire(response)

    def stream_classify(
        self,
        prompt: str,
        choices: Sequence[str],
        *,
        ensemble: str = "",
        options: VoteOptions = VoteOptions(),
    ) -> Iterator[Event]:
        """Decide among choices, telling ballots and abstentions; the decision comes last."""
        with own_errors(self._address):
            call = self._stub.StreamClassify(
                pb.StreamClassifyRequest(request=_classify(prompt, choices, ensemble, options)), timeout=self._timeout_s
            )
        with own_errors(self._address), cancelled_at_end(call):
            for response in call:
                yield client_events.classify_event_from_wire(response)

    def list_ensembles(self) -> tuple[EnsembleSummary, ...]:
        """List the server's ensembles."""
        with own_errors(self._address):
            response = self._stub.ListEnsembles(pb.ListEnsemblesRequest(), timeout=self._timeout_s)
        return tuple(map(client_events.summary_from_wire, response.ensembles))

    def get_ensemble(self, ensemble: str = "") -> EnsembleReport:
        """Describe one ensemble with the state of its members."""
        with own_errors(self._address):
            response = self._stub.GetEnsemble(pb.GetEnsembleRequest(ensemble=ensemble), timeout=self._timeout_s)
        return client_events.report_from_wire(response)
