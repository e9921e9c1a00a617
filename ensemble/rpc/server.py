"""A gRPC server in a replica: our services, standard health and reflection, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ensemble.errors import ConfigError
from ensemble.rpc.certificates import ServerCertificates
from ensemble.rpc.methods import generic_handler
from ensemble.rpc.secret import SecretGuard

TRANSPORT_FACTOR = 4
"""gRPC's own limit over ours: up to it an oversized message is read and refused with its facts."""
KEEPALIVE_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_STATUS = health_pb2.HealthCheckResponse


class DrainingHealth(health.aio.HealthServicer):  # type: ignore[misc]  # it has no types
    """Standard health whose watchers are told NOT_SERVING and let go: an open one would hold up the drain."""

    def __init__(self) -> None:
        super().__init__()
        self._drained = asyncio.Event()

    async def Watch(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Tell every change until the client leaves or the server drains."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        drained = asyncio.ensure_future(self._drained.wait())
        try:
            await asyncio.wait({watching, drained}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            drained.cancel()

    async def drain(self) -> None:
        """Say NOT_SERVING, then let the watchers go."""
        await self.enter_graceful_shutdown()
        # One turn of the loop, in which they hear it.
        await asyncio.sleep(0)
        self._drained.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service of the protos and who serves it."""

    descriptor: ServiceDescriptor
    servicer: object


class GrpcServer:
    """One listening server. ``start`` it, read ``port``, ``stop`` it."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        max_message_bytes: int,
        secret: str = "",
        certificates: ServerCertificates | None = None,
    ) -> None:
        """Prepare; a ``secret`` makes every call without it fail, and leaves health and reflection out.

        With ``certificates`` the port speaks TLS alone.
        """
        self._services = services
        self._certificates = certificates
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", max_message_bytes * TRANSPORT_FACTOR),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 1),
                *KEEPALIVE_OPTIONS,
            ),
        )
        handlers = [
            generic_handler(service.descriptor, service.servicer, max_message_bytes=max_message_bytes)
            for service in services
        ]
        # The guard comes first: handlers are asked in turn.
        self._server.add_generic_rpc_handlers((SecretGuard(secret), *handlers) if secret else tuple(handlers))
        self._health = DrainingHealth()
        if not secret:
            # Its methods would be found before the guard is asked.
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
            names = [service.descriptor.full_name for service in services]
            reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self._probed: grpc.aio.Server | None = None
        self._stopped: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self, host: str, port: int, *, is_ready: bool = True) -> None:
        """Listen; port 0 takes a free one. Health says SERVING if ``is_ready``, else NOT_SERVING till ``set_ready``.

        Raises:
            ConfigError: the port cannot be had.
        """
        self.port = _listen(self._server, host, port, certificates=self._certificates, field="router.port")
        # Before anyone can ask: of the whole server, gRPC's health says SERVING from the beginning.
        await self._tell_health(_STATUS.SERVING if is_ready else _STATUS.NOT_SERVING)
        await self._server.start()

    async def start_probed(self, host: str, port: int) -> int:
        """Answer questions of health, and no others, on a port without TLS; gives the port, a free one for 0.

        Raises:
            ConfigError: the port cannot be had.
        """
        self._probed = grpc.aio.server(options=(("grpc.so_reuseport", 1), *KEEPALIVE_OPTIONS))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probed)
        bound = _listen(self._probed, host, port, field="router.tls.health_port")
        await self._probed.start()
        return bound

    async def set_ready(self) -> None:
        """Let health say SERVING."""
        await self._tell_health(_STATUS.SERVING)

    async def _tell_health(self, status: int) -> None:
        for name in ("", *(service.descriptor.full_name for service in self._services)):
            await self._health.set(name, status)

    async def stop(self, *, grace_s: float, notice_s: float = 0.0) -> None:
        """Take no new calls, let those under way end for ``grace_s``, then cut them off; once for all callers.

        New calls are still taken for ``notice_s``, within the grace, while health says NOT_SERVING: whoever asks for it
        needs that long to find somebody else.
        """
        if self._stopped is None:
            self._stopped = asyncio.create_task(self._stop(grace_s, min(notice_s, grace_s)))
        await asyncio.shield(self._stopped)

    async def _stop(self, grace_s: float, notice_s: float) -> None:
        await self._health.drain()
        if notice_s:
            await asyncio.sleep(notice_s)
        await self._server.stop(grace_s - notice_s)
        if self._probed is not None:
            # Last: until here it has said that the other one drains.
            await self._probed.stop(0.0)


def _listen(
    server: grpc.aio.Server, host: str, port: int, *, certificates: ServerCertificates | None = None, field: str
) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificates.credentials())
    except RuntimeError as error:
        problem = f"{host}:{port} cannot be listened on"
        raise ConfigError(field, problem, "choose another port, or end what holds it") from error
