"""Ports for servers that begin later, most of them in other processes."""

from __future__ import annotations

import socket

HOST = "127.0.0.1"


def free_port() -> int:
    """Find a port that nobody has, and keep it until the tests' process ends.

    A connection's own end could get a port that was let go. One that is bound and not listened on is left alone by the
    kernel, refuses connections, and is there for servers that may share their port, as ours do.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # whoever checks the port binds it so
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    keeper.bind((HOST, 0))
    port: int = keeper.getsockname()[1]
    keeper.detach()  # never closed
    return port
