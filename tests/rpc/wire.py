"""Sends bytes as they are and reads how they were refused."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from ensemble.rpc.status import DOMAIN, error_info

ENSEMBLE_SERVICE = "ensemble.v1.EnsembleService"
CALL_TIMEOUT_S = 20.0
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How a call was refused, by its facts."""

    code: grpc.StatusCode
    details: str
    reason: str
    domain: str
    facts: dict[str, str]


async def send(channel: grpc.aio.Channel, path: str, raw: bytes, metadata: Metadata = ()) -> bytes:
    """Call a unary method with bytes."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{path}")
    return await method(raw, timeout=CALL_TIMEOUT_S, metadata=metadata)


async def send_to_stream(channel: grpc.aio.Channel, path: str, raw: bytes, metadata: Metadata = ()) -> list[bytes]:
    """Call a streaming method with bytes."""
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{path}")
    return [response async for response in method(raw, timeout=CALL_TIMEOUT_S, metadata=metadata)]


def read_refusal(failure: grpc.aio.AioRpcError) -> Refusal:
    """Read the status and its ErrorInfo, which may be missing."""
    info = error_info(failure)
    return Refusal(
        code=failure.code(),
        details=failure.details() or "",
        reason=info.reason if info else "",
        domain=info.domain if info else "",
        facts=dict(info.metadata) if info else {},
    )


def check_facts(refusal: Refusal, *, reason: str, field: str) -> None:
    """Assert that the refusal's ErrorInfo has the field and a remedy, and that its sentence begins with the field."""
    assert (refusal.reason, refusal.domain) == (reason, DOMAIN)
    assert refusal.facts["field"] == field
    assert refusal.facts["problem"]
    assert refusal.facts["remedy"]
    assert refusal.details.startswith(f"{field}: ")


def text_field(number: int, text: bytes) -> bytes:
    """Encode a length-delimited field, whatever its bytes."""
    return _varint(number << 3 | 2) + _varint(len(text)) + text


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
