"""Open channels to replicas, a bounded number of them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

import grpc

from ensemble.rpc.server import KEEPALIVE_OPTIONS
from ensemble.v1 import member_service_pb2_grpc, voting_service_pb2_grpc

if TYPE_CHECKING:
    from ensemble.v1.member_service_pb2_grpc import MemberServiceAsyncStub
    from ensemble.v1.voting_service_pb2_grpc import VotingServiceAsyncStub

MAX_CHANNELS = 512
CLOSE_GRACE_S = 60.0
"""Calls on a channel that falls out may take this long to end."""


class Peer:
    """A channel to one replica, with the stubs that a replica may serve: making them costs as much as a call."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.member: MemberServiceAsyncStub = member_service_pb2_grpc.MemberServiceStub(channel)
        self.voting: VotingServiceAsyncStub = voting_service_pb2_grpc.VotingServiceStub(channel)


class ChannelCache:
    """One channel an address; the one used longest ago falls out."""

    def __init__(self) -> None:
        self._peer_by_address: OrderedDict[str, Peer] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, address: str) -> Peer:
        """Give the peer at ``host:port``, made if need be."""
        peer = self._peer_by_address.get(address)
        if peer is None:
            options = (
                ("grpc.max_receive_message_length", -1),
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
                *KEEPALIVE_OPTIONS,
            )
            peer = self._peer_by_address[address] = Peer(grpc.aio.insecure_channel(address, options=options))
            if len(self._peer_by_address) > MAX_CHANNELS:
                self._close(self._peer_by_address.popitem(last=False)[1])
        else:
            self._peer_by_address.move_to_end(address)
        return peer

    def drop(self, address: str, peer: Peer) -> None:
        """Forget a channel whose replica is gone, unless a newer one took its place; calls under way on it may end."""
        if self._peer_by_address.get(address) is peer:
            del self._peer_by_address[address]
            self._close(peer)

    async def close(self) -> None:
        """Close all channels now."""
        peers = [*self._peer_by_address.values()]
        self._peer_by_address.clear()
        for task in self._closing:
            task.cancel()
        for peer in peers:
            await peer.channel.close()

    def _close(self, peer: Peer) -> None:
        task = asyncio.create_task(peer.channel.close(CLOSE_GRACE_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
