"""Errors to gRPC statuses and back: the one table, at the edge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from ensemble import errors

DOMAIN = "ensemble.v1"
DETAILS_KEY = "grpc-status-details-bin"
RETRY_AFTER_S = 1
NO_RETRY = ("grpc-retry-pushback-ms", "-1")
"""Keeps gRPC's own retries, which are for lost connections, from repeating a request that got an error for answer."""
MAX_TEXT_BYTES = 512
"""Of a sentence or a fact, which may quote the request: peers refuse trailers over 8 KiB, and every fact is lost."""

STATUS_BY_ERROR: dict[type[errors.EnsembleError], grpc.StatusCode] = {
    errors.UnknownNameError: grpc.StatusCode.NOT_FOUND,
    errors.MessageTooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AuthenticationError: grpc.StatusCode.UNAUTHENTICATED,
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MemberRefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MemberBusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.MemberUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.MemberTimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.MemberError: grpc.StatusCode.INTERNAL,
    errors.QuorumError: grpc.StatusCode.UNAVAILABLE,
    errors.VotingUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.FeedbackUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DefectError: grpc.StatusCode.INTERNAL,
}
"""Looked up along the error's own class order, so that a kind comes before its parent."""

RETRIABLE = (
    errors.OverloadedError,
    errors.QuorumError,
    errors.VotingUnavailableError,
    errors.MemberBusyError,
    errors.FeedbackUnavailableError,
)

COUNTS = frozenset({"num_cast", "num_asked", "limit"})
"""Facts that are whole numbers; all others are text."""

EXPLANATION_BY_MARK = {
    "Hostname Verification Check failed": "its certificate is for another name than the one it was asked by",
    "certificate has expired": "its certificate has expired",
    "CERTIFICATE_VERIFY_FAILED": "its certificate does not come from the given authorities",
    # An authority of the right name with another key.
    "certificate signature failure": "its certificate does not come from the given authorities",
    "WRONG_VERSION_NUMBER": "it does not speak TLS, and was asked with it",
    "Socket closed": "it hung up at once; it may want TLS, or a client's certificate that it trusts",
}
"""What gRPC says when a connection does not come about, in the order in which it is looked for, and what that means."""

_NOT_CONNECTED = "; last error: "
_ERROR_BY_REASON = {error.__name__: error for error in STATUS_BY_ERROR}


def code_of(error: errors.EnsembleError) -> grpc.StatusCode:
    """Name the status for an error."""
    for kind in type(error).__mro__:
        if kind in STATUS_BY_ERROR:
            return STATUS_BY_ERROR[kind]
    return grpc.StatusCode.INTERNAL


def status_from_error(error: errors.EnsembleError) -> Status:
    """Make the rich status: the sentence, an ErrorInfo with the facts, a RetryInfo where a retry helps."""
    code = code_of(error)
    facts = {key: _shortened(value) for key, value in error.facts.items()}
    info = ErrorInfo(reason=type(error).__name__, domain=DOMAIN, metadata=facts)
    details = [_packed(info)]
    if isinstance(error, RETRIABLE):
        details.append(_packed(RetryInfo(retry_delay=Duration(seconds=RETRY_AFTER_S))))
    return Status(code=code.value[0], message=_shortened(str(error)), details=details)


async def abort(context: grpc.aio.ServicerContext[bytes, bytes], error: errors.EnsembleError) -> NoReturn:
    """End the call with the error's status."""
    status = status_from_error(error)
    await context.abort(code_of(error), status.message, ((DETAILS_KEY, status.SerializeToString()), NO_RETRY))
    raise AssertionError("abort raises")


def error_info(failure: grpc.RpcError) -> ErrorInfo | None:
    """Find the ErrorInfo that this project's servers attach, if there is one."""
    trailers = failure.trailing_metadata() or () if isinstance(failure, grpc.Call | grpc.aio.AioRpcError) else ()
    for key, value in trailers:
        if key == DETAILS_KEY:
            info = ErrorInfo()
            for detail in Status.FromString(value).details:
                if detail.Is(ErrorInfo.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
                    return info
    return None


def error_from_status(failure: grpc.RpcError, address: str) -> errors.EnsembleError:
    """Give back the error that the server at ``address`` raised, with its facts, or an EndpointError."""
    info = error_info(failure)
    kind = _ERROR_BY_REASON.get(info.reason) if info else None
    if info is None or kind is None:
        return errors.EndpointError(address, *_code_and_details(failure))
    return kind(*(_fact(name, info.metadata[name]) for name in kind.fact_names))


@contextmanager
def own_errors(address: str) -> Iterator[None]:
    """Turn gRPC's errors of a call to ``address`` into ours, and those about values that messages cannot carry."""
    try:
        yield
    except grpc.RpcError as failure:
        raise error_from_status(failure, address) from failure
    except (TypeError, ValueError, grpc.aio.UsageError) as error:
        raise errors.InvalidRequestError("request", str(error), "send values that the protos can carry") from error


@contextmanager
def cancelled_at_end(call: grpc.RpcContext | grpc.aio.RpcContext) -> Iterator[None]:
    """Cancel a stream that its reader leaves; one that has ended stays as it is."""
    try:
        yield
    finally:
        call.cancel()


def _fact(name: str, value: str) -> str | int:
    return int(value) if name in COUNTS else value


def _code_and_details(failure: grpc.RpcError) -> tuple[str, str]:
    if isinstance(failure, grpc.Call | grpc.aio.AioRpcError):
        return failure.code().name, _explained(failure.details() or "no details")
    return grpc.StatusCode.UNKNOWN.name, str(failure)


def _explained(details: str) -> str:
    """Put a sentence before what gRPC says of a connection that did not come about."""
    if _NOT_CONNECTED not in details:
        return details
    meanings = (meaning for mark, meaning in EXPLANATION_BY_MARK.items() if mark in details)
    return next((f"{meaning} ({details})" for meaning in meanings), details)


def _shortened(text: str) -> str:
    raw = text.encode(errors="replace")
    if len(raw) <= MAX_TEXT_BYTES:
        return text
    half = MAX_TEXT_BYTES // 2
    return f"{raw[:half].decode(errors='ignore')} ... {raw[-half:].decode(errors='ignore')}"


def _packed(message: ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
