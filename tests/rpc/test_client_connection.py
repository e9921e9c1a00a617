"""A client's connection is its own: what another client met at an address does not hold it up."""

from __future__ import annotations

import socket

import pytest

from ensemble.errors import EndpointError
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.rpc.server import GrpcServer
from tests.rpc.systems import HOST, MAX_MESSAGE_BYTES


async def test_a_client_connects_at_once_to_a_server_that_refused_another_one_a_moment_ago() -> None:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    async with AsyncEnsembleClient(f"{HOST}:{port}") as early, AsyncEnsembleClient(f"{HOST}:{port}") as late:
        with pytest.raises(EndpointError, match="refused"):
            await early.list_ensembles()
        server = GrpcServer([], max_message_bytes=MAX_MESSAGE_BYTES)
        await server.start(HOST, port)

        with pytest.raises(EndpointError) as caught:
            await late.list_ensembles()

        await server.stop(grace_s=0.0)
    assert caught.value.status == "UNIMPLEMENTED"  # The server answered: it has no services here.
