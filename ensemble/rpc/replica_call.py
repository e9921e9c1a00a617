"""One call to a deployment: choose a replica, call it, and try another when it is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from ensemble.errors import MemberBusyError, MemberUnavailableError
from ensemble.router.ports import ReplicaAddress, ReplicaPicker
from ensemble.rpc.channels import ChannelCache, Peer
from ensemble.rpc.status import error_info

T = TypeVar("T")


def is_full(failure: grpc.aio.AioRpcError) -> bool:
    """Say whether a replica refused for want of room."""
    info = error_info(failure)
    return info is not None and info.reason == MemberBusyError.__name__


AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""CANCELLED is what gRPC's server says to calls that it has not begun when it stops."""
FIRST_PAUSE_S = 0.02
"""Before the second attempt; doubled before each further one."""
LONGEST_PAUSE_S = 0.5
MAX_PICKS = 8
"""Serve chooses among two at random, the dead included: so many choices miss the only living one in 1 of 256 cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCaller:
    """Calls replicas of one deployment. ``name`` is the member's, for errors.

    ``pick_timeout_s`` is how long a call may look for a replica that answers.
    """

    name: str
    picker: ReplicaPicker
    channels: ChannelCache
    pick_timeout_s: float

    async def call(self, attempt: Callable[[Peer, float], Awaitable[T]], *, timeout_s: float) -> T:
        """Run ``attempt(peer, seconds left)`` on a replica, and on others if it proves to be away or full.

        An answer depends on the request alone, so asking twice does no harm.

        Raises:
            MemberUnavailableError: no replica could be reached.
            grpc.aio.AioRpcError: whatever else the attempt met.
        """
        started_s = time.monotonic()
        until_s = started_s + timeout_s
        patient_until_s = started_s + min(self.pick_timeout_s, timeout_s)
        failed: set[str] = set()
        refusal: grpc.aio.AioRpcError | None = None
        pause_s = FIRST_PAUSE_S
        while True:
            replica = await self._pick_other(failed, until_s)
            if refusal is not None and replica.address in failed:
                # A full replica's word is final when there is no other one.
                raise refusal
            peer = self.channels.get(replica.address)
            try:
                return await attempt(peer, max(0.001, until_s - time.monotonic()))
            except grpc.aio.AioRpcError as failure:
                is_away = failure.code() in AWAY and error_info(failure) is None
                refusal = failure if is_full(failure) else None
                if not is_away and refusal is None:
                    raise
                if is_away:
                    self.channels.drop(replica.address, peer)
                failed.add(replica.address)
                if time.monotonic() + pause_s >= patient_until_s:
                    raise self._unreachable(failure) from failure
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _pick_other(self, failed: set[str], until_s: float) -> ReplicaAddress:
        """Choose a replica, one that has not failed this call if Serve offers one."""
        for _ in range(MAX_PICKS):
            replica = await self.pick(until_s - time.monotonic())
            if replica.address not in failed:
                break
        return replica

    def _unreachable(self, failure: grpc.aio.AioRpcError) -> Exception:
        if is_full(failure):
            return failure
        return MemberUnavailableError(self.name, f"its replica is away ({failure.details()})")

    async def pick(self, timeout_s: float) -> ReplicaAddress:
        """Choose a replica.

        Raises:
            MemberUnavailableError: none was there within the time for it.
        """
        limit_s = min(self.pick_timeout_s, timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                return await self.picker.pick()
        except TimeoutError as error:
            raise MemberUnavailableError(self.name, f"it had no replica up for {limit_s:.1f} s") from error
