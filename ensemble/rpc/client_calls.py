"""What the clients of both kinds share: their connection's options, and the requests that they send."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from ensemble.errors import EndpointError
from ensemble.router.request import ClassifyRequest, GenerateRequest, ParameterOverrides, VoteOptions
from ensemble.rpc.convert import classify_request_to_wire, generate_request_to_wire
from ensemble.rpc.convert_record import record_from_wire
from ensemble.v1 import ensemble_service_pb2 as pb
from ensemble.voting.record import VoteRecord

DEFAULT_TIMEOUT_S = 60.0
_RETRY_UNAVAILABLE = {
    "methodConfig": [
        {
            "name": [{"service": "ensemble.v1.EnsembleService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                # The second attempt comes after the connection has been tried again, see below; a call that fails on
                # a connection that is not there fails at once, so all attempts could be over before that.
                "initialBackoff": "0.2s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                # CANCELLED is what gRPC's server says to calls that it has not begun when it stops.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    "loadBalancingConfig": [{"round_robin": {}}],
}
OPTIONS = (
    # A replica that goes resets the connections that it has not accepted; another one at the address takes the next.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Of several addresses, one that comes back is found before another one goes; gRPC's own bound is two minutes.
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.service_config", json.dumps(_RETRY_UNAVAILABLE)),
    ("grpc.max_receive_message_length", -1),
    # Its own: shared by address, it would inherit the pause that another client's refused connection asked for.
    ("grpc.use_local_subchannel_pool", 1),
)


def generate_to_wire(
    prompt: str, ensemble: str, parameters: ParameterOverrides, *, options: VoteOptions, request_id: str
) -> pb.GenerateRequest:
    """Make a request for a text."""
    request = GenerateRequest(
        request_id=request_id, ensemble=ensemble, prompt=prompt, parameters=parameters, options=options
    )
    return generate_request_to_wire(request)


def classify_to_wire(
    prompt: str, choices: Sequence[str], ensemble: str, *, options: VoteOptions, request_id: str
) -> pb.ClassifyRequest:
    """Make a question with choices."""
    request = ClassifyRequest(
        request_id=request_id, ensemble=ensemble, prompt=prompt, choices=tuple(choices), options=options
    )
    return classify_request_to_wire(request)


def feedback_to_wire(request_id: str, answer: str, ensemble: str, *, is_choice: bool) -> pb.FeedbackRequest:
    """Make a feedback: a choice where the request had some, else a text."""
    wire = pb.FeedbackRequest(request_id=request_id, ensemble=ensemble)
    if is_choice:
        wire.choice = answer
    else:
        wire.text = answer
    return wire


def recorded(options: VoteOptions) -> VoteOptions:
    """Ask for the record, too."""
    return replace(options, include_record=True)


def record_of(response: pb.GenerateResponse | pb.ClassifyResponse) -> VoteRecord:
    """Read the record of a response.

    Raises:
        EndpointError: there is none; the server is older than records.
    """
    if not response.HasField("record"):
        raise EndpointError("the server", "UNIMPLEMENTED", "it gives no records")
    return record_from_wire(response.record)
