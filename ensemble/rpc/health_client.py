"""Asks a server's standard health service, as probes do."""

from __future__ import annotations

from grpc_health.v1 import health_pb2, health_pb2_grpc

from ensemble.rpc.client_channel import ClientTls, open_channel
from ensemble.rpc.status import own_errors


def check_health(address: str, *, service: str = "", timeout_s: float, tls: ClientTls | None = None) -> str:
    """Give a service's state in health's own word, ``SERVING`` say; the whole server's when none is named.

    Raises:
        ConfigError: a file of ``tls`` cannot be used.
        EndpointError: nobody answers there, or the server has no such service.
    """
    with own_errors(address), open_channel(address, tls) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
