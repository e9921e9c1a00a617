"""Requests, completions and counters to and from the wire."""

from __future__ import annotations

from ensemble.engines.engine import EngineStats
from ensemble.generation import (
    ChoiceScores,
    Completion,
    CompletionChunk,
    FinishReason,
    GenerationParameters,
    GenerationRequest,
    ScoringRequest,
)
from ensemble.router.request import ClassifyRequest, GenerateRequest, ParameterOverrides, QuorumOverrides, VoteOptions
from ensemble.v1 import ensemble_service_pb2, generation_pb2, member_service_pb2, vote_pb2

FINISH_REASON_TO_WIRE = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.ABORT: generation_pb2.FINISH_REASON_ABORT,
}
FINISH_REASON_FROM_WIRE = {wire: reason for reason, wire in FINISH_REASON_TO_WIRE.items()}


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
    return VoteOptions(strategy=wire.strategy, panel=tuple(wire.panel), quorum=quorum_from_wire(wire.quorum))


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
    )


def quorum_from_wire(wire: vote_pb2.Quorum) -> QuorumOverrides:
    """Read the quorum's fields that a request sets."""
    return QuorumOverrides(
        min_weight=wire.min_weight if wire.HasField("min_weight") else None,
        min_families=wire.min_families if wire.HasField("min_families") else None,
        stop_early=wire.stop_early if wire.HasField("stop_early") else None,
    )


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
    )


def generation_request_to_wire(request: GenerationRequest) -> member_service_pb2.CompleteRequest:
    """Make a member's request, every parameter given."""
    parameters = request.parameters
    return member_service_pb2.CompleteRequest(
        request_id=request.request_id,
        prompt=request.prompt,
        parameters=generation_pb2.GenerationParameters(
            max_tokens=parameters.max_tokens,
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            seed=parameters.seed,
            stop=parameters.stop,
        ),
    )


def generation_request_from_wire(wire: member_service_pb2.CompleteRequest) -> GenerationRequest:
    """Read a member's request."""
    overrides = overrides_from_wire(wire.parameters)
    return GenerationRequest(
        request_id=wire.request_id, prompt=wire.prompt, parameters=overrides.applied_to(GenerationParameters())
    )


def scoring_request_from_wire(wire: member_service_pb2.ScoreRequest) -> ScoringRequest:
    """Read a member's scoring request."""
    return ScoringRequest(request_id=wire.request_id, prompt=wire.prompt, choices=tuple(wire.choices))


def chunk_to_wire(chunk: CompletionChunk, text: str) -> member_service_pb2.CompleteResponse:
    """Make the wire's completion, or a piece of it, with ``text`` for its text."""
    return member_service_pb2.CompleteResponse(
        text=text,
        finish_reason=FINISH_REASON_TO_WIRE[chunk.finish_reason]
        if chunk.finish_reason
        else generation_pb2.FINISH_REASON_UNSPECIFIED,
        prompt_tokens=chunk.prompt_tokens,
        completion_tokens=chunk.completion_tokens,
        logprob=chunk.logprob,
    )


def chunk_from_wire(wire: member_service_pb2.CompleteResponse) -> CompletionChunk:
    """Read a piece of a completion."""
    return CompletionChunk(
        text=wire.text,
        finish_reason=FINISH_REASON_FROM_WIRE.get(wire.finish_reason),
        prompt_tokens=wire.prompt_tokens,
        completion_tokens=wire.completion_tokens,
        logprob=wire.logprob,
    )


def completion_from_wire(wire: member_service_pb2.CompleteResponse) -> Completion:
    """Read a whole completion."""
    return Completion(
        text=wire.text,
        finish_reason=FINISH_REASON_FROM_WIRE.get(wire.finish_reason, FinishReason.ABORT),
        prompt_tokens=wire.prompt_tokens,
        completion_tokens=wire.completion_tokens,
        logprob=wire.logprob,
    )


def scores_from_wire(wire: member_service_pb2.ScoreResponse) -> ChoiceScores:
    """Read the choices' log-probabilities."""
    return ChoiceScores(
        logprobs=tuple(wire.logprobs), num_tokens=tuple(wire.choice_tokens), prompt_tokens=wire.prompt_tokens
    )


def stats_to_wire(stats: EngineStats) -> member_service_pb2.EngineStats:
    """Make the wire's counters."""
    return member_service_pb2.EngineStats(
        running_count=stats.running_requests,
        waiting_count=stats.waiting_requests,
        finished_count=stats.finished_requests,
        aborted_count=stats.aborted_requests,
        prompt_tokens=stats.prompt_tokens,
        completion_tokens=stats.completion_tokens,
        aborted_tokens=stats.aborted_tokens,
        step_count=stats.steps,
        max_batch=stats.max_batch,
        max_steps_to_abort=stats.max_steps_to_abort,
    )


def stats_from_wire(wire: member_service_pb2.EngineStats) -> EngineStats:
    """Read the counters."""
    return EngineStats(
        running_requests=wire.running_count,
        waiting_requests=wire.waiting_count,
        finished_requests=wire.finished_count,
        aborted_requests=wire.aborted_count,
        prompt_tokens=wire.prompt_tokens,
        completion_tokens=wire.completion_tokens,
        aborted_tokens=wire.aborted_tokens,
        steps=wire.step_count,
        max_batch=wire.max_batch,
        max_steps_to_abort=wire.max_steps_to_abort,
    )
