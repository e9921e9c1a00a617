"""A client's connection is its own, and one that is reset before it is used is tried again."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from ensemble.errors import EndpointError
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.rpc.server import GrpcServer
from tests.ports import HOST, free_port
from tests.rpc.systems import MAX_MESSAGE_BYTES


async def test_a_client_connects_at_once_to_a_server_that_refused_another_one_a_moment_ago() -> None:
    port = free_port()
    async with AsyncEnsembleClient(f"{HOST}:{port}") as early, AsyncEnsembleClient(f"{HOST}:{port}") as late:
        with pytest.raises(EndpointError, match="refused"):
            await early.list_ensembles()
        server = GrpcServer([], max_message_bytes=MAX_MESSAGE_BYTES)
        await server.start(HOST, port)

        with pytest.raises(EndpointError) as caught:
            await late.list_ensembles()

        await server.stop(grace_s=0.0)
    assert caught.value.status == "UNIMPLEMENTED"  # The server answered: it has no services here.


async def test_a_connection_that_is_reset_before_it_is_accepted_is_tried_again() -> None:
    """A replica that goes resets what waits in its queue, while another one listens at the same address."""
    server = GrpcServer([], max_message_bytes=MAX_MESSAGE_BYTES)
    with socket.create_server((HOST, 0)) as going:
        # With this a closed connection is reset.
        going.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        going.settimeout(0.0)  # for the loop
        port = going.getsockname()[1]
        async with AsyncEnsembleClient(f"{HOST}:{port}") as client:
            call = asyncio.create_task(client.list_ensembles())
            connection, _ = await asyncio.get_running_loop().sock_accept(going)
            going.close()
            await server.start(HOST, port)
            connection.close()

            with pytest.raises(EndpointError) as caught:
                await call

    await server.stop(grace_s=0.0)
    assert caught.value.status == "UNIMPLEMENTED"  # The server answered.
