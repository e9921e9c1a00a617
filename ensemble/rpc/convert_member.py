"""What a member is asked and gives back, to and from the wire."""

from __future__ import annotations

from ensemble.engines.engine import EngineStats
from ensemble.generation import (
    ChoiceScores,
    Completion,
    CompletionChunk,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationParameters,
    GenerationRequest,
    ScoringRequest,
)
from ensemble.rpc.convert import overrides_from_wire
from ensemble.rpc.convert_vote import duration_from_wire, duration_to_wire
from ensemble.v1 import generation_pb2, member_service_pb2

FINISH_REASON_TO_WIRE = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.ABORT: generation_pb2.FINISH_REASON_ABORT,
}
FINISH_REASON_FROM_WIRE = {wire: reason for reason, wire in FINISH_REASON_TO_WIRE.items()}


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
        needs_logprob=request.needs_logprob,
    )


def generation_request_from_wire(wire: member_service_pb2.CompleteRequest, *, is_streamed: bool) -> GenerationRequest:
    """Read a member's request."""
    return GenerationRequest(
        request_id=wire.request_id,
        prompt=wire.prompt,
        parameters=overrides_from_wire(wire.parameters).applied_to(GenerationParameters()),
        is_streamed=is_streamed,
        needs_logprob=wire.needs_logprob if wire.HasField("needs_logprob") else True,
    )


def scoring_request_from_wire(wire: member_service_pb2.ScoreRequest) -> ScoringRequest:
    """Read a member's scoring request."""
    return ScoringRequest(request_id=wire.request_id, prompt=wire.prompt, choices=tuple(wire.choices))


def scoring_request_to_wire(request: ScoringRequest) -> member_service_pb2.ScoreRequest:
    """Make a member's scoring request."""
    return member_service_pb2.ScoreRequest(
        request_id=request.request_id, prompt=request.prompt, choices=request.choices
    )


def chunk_to_wire(chunk: CompletionChunk, text: str) -> member_service_pb2.CompleteResponse:
    """Make the wire's completion, or a piece of it, with ``text`` for its text."""
    return member_service_pb2.CompleteResponse(
        text=text,
        finish_reason=FINISH_REASON_TO_WIRE[chunk.finish_reason]
        if chunk.finish_reason
        else generation_pb2.FINISH_REASON_UNSPECIFIED,
        prompt_tokens=chunk.prompt_tokens,
        completion_tokens=chunk.completion_tokens,
        logprob=chunk.logprob or 0.0,
        lacks_logprob=chunk.logprob is None,
    )


def chunk_from_wire(wire: member_service_pb2.CompleteResponse) -> CompletionChunk:
    """Read a piece of a completion."""
    return CompletionChunk(
        text=wire.text,
        finish_reason=FINISH_REASON_FROM_WIRE.get(wire.finish_reason),
        prompt_tokens=wire.prompt_tokens,
        completion_tokens=wire.completion_tokens,
        logprob=None if wire.lacks_logprob else wire.logprob,
    )


def completion_from_wire(wire: member_service_pb2.CompleteResponse) -> Completion:
    """Read a whole completion."""
    return Completion(
        text=wire.text,
        finish_reason=FINISH_REASON_FROM_WIRE.get(wire.finish_reason, FinishReason.ABORT),
        prompt_tokens=wire.prompt_tokens,
        completion_tokens=wire.completion_tokens,
        logprob=None if wire.lacks_logprob else wire.logprob,
    )


def embedding_request_to_wire(request: EmbeddingRequest) -> member_service_pb2.EmbedRequest:
    """Make a member's request for embeddings."""
    return member_service_pb2.EmbedRequest(request_id=request.request_id, texts=request.texts)


def embedding_request_from_wire(wire: member_service_pb2.EmbedRequest) -> EmbeddingRequest:
    """Read a member's request for embeddings."""
    return EmbeddingRequest(request_id=wire.request_id, texts=tuple(wire.texts))


def embeddings_to_wire(embeddings: Embeddings) -> member_service_pb2.EmbedResponse:
    """Make the wire's embeddings."""
    return member_service_pb2.EmbedResponse(
        embeddings=[member_service_pb2.TextEmbedding(values=vector) for vector in embeddings.vectors],
        prompt_tokens=embeddings.prompt_tokens,
    )


def embeddings_from_wire(wire: member_service_pb2.EmbedResponse) -> Embeddings:
    """Read embeddings."""
    return Embeddings(
        vectors=tuple(tuple(embedding.values) for embedding in wire.embeddings), prompt_tokens=wire.prompt_tokens
    )


def scores_to_wire(scores: ChoiceScores) -> member_service_pb2.ScoreResponse:
    """Make the wire's log-probabilities."""
    return member_service_pb2.ScoreResponse(
        logprobs=scores.logprobs, choice_tokens=scores.num_tokens, prompt_tokens=scores.prompt_tokens
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
        started_count=stats.started_requests,
        queue_time=duration_to_wire(stats.queue_s),
        cached_prompt_tokens=stats.cached_prompt_tokens,
        cache_share=stats.cache_share,
        batched_count=stats.batched_requests,
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
        started_requests=wire.started_count,
        queue_s=duration_from_wire(wire.queue_time, "stats.queue_time"),
        cached_prompt_tokens=wire.cached_prompt_tokens,
        cache_share=wire.cache_share,
        batched_requests=wire.batched_count,
    )
