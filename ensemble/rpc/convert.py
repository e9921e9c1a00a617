"""What clients ask, to and from the wire."""

from __future__ import annotations

from ensemble.errors import InvalidRequestError
from ensemble.router.feedback import Feedback
from ensemble.router.request import (
    ClassifyRequest,
    GenerateRequest,
    ParameterOverrides,
    QuorumOverrides,
    StreamMode,
    VoteOptions,
)
from ensemble.v1 import ensemble_service_pb2, generation_pb2, vote_pb2

_MODE_TO_WIRE = {
    StreamMode.ALL: ensemble_service_pb2.STREAM_MODE_UNSPECIFIED,
    StreamMode.LEADER: ensemble_service_pb2.STREAM_MODE_LEADER,
    StreamMode.FIRST_TOKEN_HEDGE: ensemble_service_pb2.STREAM_MODE_FIRST_TOKEN_HEDGE,
}
_MODE_FROM_WIRE = {wire: mode for mode, wire in _MODE_TO_WIRE.items()}


def overrides_from_wire(wire: generation_pb2.GenerationParameters) -> ParameterOverrides:
    """Read the parameters that a request sets."""
    return ParameterOverrides(
        max_tokens=wire.max_tokens if wire.HasField("max_tokens") else None,
        temperature=wire.temperature if wire.HasField("temperature") else None,
        top_p=wire.top_p if wire.HasField("top_p") else None,
        seed=wire.seed if wire.HasField("seed") else None,
        stop=tuple(wire.stop),
    )


def overrides_to_wire(overrides: ParameterOverrides) -> generation_pb2.GenerationParameters:
    """Make the wire's parameters; what is None stays unset."""
    return generation_pb2.GenerationParameters(
        max_tokens=overrides.max_tokens,
        temperature=overrides.temperature,
        top_p=overrides.top_p,
        seed=overrides.seed,
        stop=overrides.stop,
    )


def options_from_wire(wire: ensemble_service_pb2.VoteOptions) -> VoteOptions:
    """Read how a request departs from the defaults."""
    return VoteOptions(
        strategy=wire.strategy,
        panel=tuple(wire.panel),
        quorum=quorum_from_wire(wire.quorum),
        ignore_calibration=wire.ignore_calibration,
        include_record=wire.include_record,
        include_logprobs=wire.include_logprobs,
    )


def options_to_wire(options: VoteOptions) -> ensemble_service_pb2.VoteOptions:
    """Make the wire's options; what is None stays unset."""
    return ensemble_service_pb2.VoteOptions(
        strategy=options.strategy,
        panel=options.panel,
        quorum=vote_pb2.Quorum(
            min_weight=options.quorum.min_weight,
            min_families=options.quorum.min_families,
            stop_early=options.quorum.stop_early,
        ),
        ignore_calibration=options.ignore_calibration,
        include_record=options.include_record,
        include_logprobs=options.include_logprobs,
    )


def quorum_from_wire(wire: vote_pb2.Quorum) -> QuorumOverrides:
    """Read the quorum's fields that a request sets."""
    return QuorumOverrides(
        min_weight=wire.min_weight if wire.HasField("min_weight") else None,
        min_families=wire.min_families if wire.HasField("min_families") else None,
        stop_early=wire.stop_early if wire.HasField("stop_early") else None,
    )


def stream_mode_from_wire(wire: ensemble_service_pb2.StreamMode.ValueType) -> StreamMode:
    """Read whose text is to be streamed.

    Raises:
        InvalidRequestError: this version does not know it.
    """
    mode = _MODE_FROM_WIRE.get(wire)
    if mode is None:
        raise InvalidRequestError("mode", f"{wire} is unknown", "use a published value")
    return mode


def stream_mode_to_wire(mode: StreamMode) -> ensemble_service_pb2.StreamMode.ValueType:
    """Make the wire's mode."""
    return _MODE_TO_WIRE[mode]


def generate_request_from_wire(wire: ensemble_service_pb2.GenerateRequest, request_id: str) -> GenerateRequest:
    """Read a client's request for a text."""
    return GenerateRequest(
        request_id=request_id,
        ensemble=wire.ensemble,
        prompt=wire.prompt,
        parameters=overrides_from_wire(wire.parameters),
        options=options_from_wire(wire.options),
    )


def generate_request_to_wire(request: GenerateRequest) -> ensemble_service_pb2.GenerateRequest:
    """Make the client's request for a text."""
    return ensemble_service_pb2.GenerateRequest(
        ensemble=request.ensemble,
        prompt=request.prompt,
        parameters=overrides_to_wire(request.parameters),
        options=options_to_wire(request.options),
        request_id=request.request_id,
    )


def classify_request_from_wire(wire: ensemble_service_pb2.ClassifyRequest, request_id: str) -> ClassifyRequest:
    """Read a client's question with choices."""
    return ClassifyRequest(
        request_id=request_id,
        ensemble=wire.ensemble,
        prompt=wire.prompt,
        choices=tuple(wire.choices),
        options=options_from_wire(wire.options),
    )


def classify_request_to_wire(request: ClassifyRequest) -> ensemble_service_pb2.ClassifyRequest:
    """Make the client's question with choices."""
    return ensemble_service_pb2.ClassifyRequest(
        ensemble=request.ensemble,
        prompt=request.prompt,
        choices=request.choices,
        options=options_to_wire(request.options),
        request_id=request.request_id,
    )


def feedback_from_wire(wire: ensemble_service_pb2.FeedbackRequest) -> Feedback:
    """Read a client's feedback.

    Raises:
        InvalidRequestError: there is no answer.
    """
    kind = wire.WhichOneof("answer")
    if kind is None:
        raise InvalidRequestError("answer", "there is none", "send a choice or a text")
    return Feedback(
        request_id=wire.request_id,
        ensemble=wire.ensemble,
        answer=wire.choice if kind == "choice" else wire.text,
        is_choice=kind == "choice",
    )
