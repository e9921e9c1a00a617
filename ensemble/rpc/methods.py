"""Registers a servicer so that every bad message and every error of ours ends in a status with its facts.

The generated registration parses messages before our code sees them, so that a message that does not parse ends in
INTERNAL with no word on the field. Here methods get bytes, and parsing is part of handling.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from ensemble.errors import DefectError, EnsembleError, InvalidRequestError, MessageTooLargeError
from ensemble.rpc.status import abort

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]

RequestT = TypeVar("RequestT", bound=Message)
_LENGTH_DELIMITED = 2


def generic_handler(service: ServiceDescriptor, servicer: object, *, max_message_bytes: int) -> grpc.GenericRpcHandler:
    """Build the handler of every method of ``service`` from the servicer's methods of the same names."""
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
    for method in service.methods:
        parse = _parser(message_factory.GetMessageClass(method.input_type), max_message_bytes=max_message_bytes)
        implementation = getattr(servicer, method.name)
        if method.server_streaming:
            handlers[method.name] = grpc.unary_stream_rpc_method_handler(_streaming(parse, implementation))
        else:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(_unary(parse, implementation))
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _parser(request_class: type[RequestT], *, max_message_bytes: int) -> Callable[[bytes], RequestT]:
    def parse(raw: bytes) -> RequestT:
        if len(raw) > max_message_bytes:
            raise MessageTooLargeError("message", f"it has {len(raw)} bytes", f"send at most {max_message_bytes}")
        try:
            return request_class.FromString(raw)
        except DecodeError as error:
            field = find_bad_text(raw, request_class.DESCRIPTOR)
            if field:
                raise InvalidRequestError(field, "it is not valid UTF-8", "encode text as UTF-8") from error
            raise InvalidRequestError(
                "message", f"it is not a {request_class.DESCRIPTOR.full_name}", "use the published protos"
            ) from error

    return parse


def _unary(
    parse: Callable[[bytes], Message], implementation: Callable[[Message, Context], Awaitable[Message]]
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def handle(raw: bytes, context: Context) -> bytes:
        try:
            response = await implementation(parse(raw), context)
        except EnsembleError as error:
            await abort(context, error)
        except Exception as error:
            log.exception("a call failed")
            await abort(context, DefectError(type(error).__name__))
        return response.SerializeToString()

    return handle


def _streaming(
    parse: Callable[[bytes], Message], implementation: Callable[[Message, Context], AsyncGenerator[Message]]
) -> Callable[[bytes, Context], AsyncGenerator[bytes]]:
    async def handle(raw: bytes, context: Context) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(implementation(parse(raw), context)) as responses:
                async for response in responses:
                    yield response.SerializeToString()
        except EnsembleError as error:
            await abort(context, error)
        except Exception as error:
            log.exception("a stream failed")
            await abort(context, DefectError(type(error).__name__))

    return handle


def find_bad_text(raw: bytes, descriptor: Any) -> str:
    """Name the first text field that is not UTF-8, as a dotted path; empty when there is none.

    A message with such a field does not parse, so its fields are read as unknown ones, which may hold any bytes.
    """
    try:
        unknown = UnknownFieldSet(Empty.FromString(raw))
    except DecodeError:
        return ""
    for entry in unknown:  # type: ignore[attr-defined]  # the stub lacks its sequence methods
        field = descriptor.fields_by_number.get(entry.field_number)
        if field is None or entry.wire_type != _LENGTH_DELIMITED:
            continue
        if field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(entry.data):
            return str(field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
            inner = find_bad_text(entry.data, field.message_type)
            if inner:
                return f"{field.name}.{inner}"
    return ""


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
