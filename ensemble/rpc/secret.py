"""A port that answers only to who knows the application's secret."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc

from ensemble.errors import AuthenticationError
from ensemble.rpc.status import abort

if TYPE_CHECKING:
    from ensemble.rpc.methods import Context

SECRET_KEY = "ensemble-secret"  # noqa: S105 - the key, not the secret
"""The metadata key that carries the secret."""


class SecretGuard(grpc.GenericRpcHandler):
    """Takes every call without the secret away from the handlers behind it; compares in constant time.

    Registered first. A handler rather than an interceptor: an interceptor is a coroutine more for every call.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        # A stream's handler runs before any message is read: a stranger cannot make this server read a large one.
        self._refusal: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(_refuse)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Refuse the call, or leave it to the next handler."""
        given = next((value for key, value in handler_call_details.invocation_metadata or () if key == SECRET_KEY), "")
        raw = given if isinstance(given, bytes) else given.encode()
        return None if hmac.compare_digest(raw, self._secret) else self._refusal


async def _refuse(_messages: AsyncIterator[bytes], context: Context) -> bytes:
    error = AuthenticationError(SECRET_KEY, "it is missing or wrong", "members answer only to their own routers")
    await abort(context, error)
