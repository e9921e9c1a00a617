"""Asks several members at once and hands over what they say in the order of arrival."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from ensemble.errors import MemberError, MemberRefusedError, MemberTimeoutError
from ensemble.router.request import TextPiece
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote

_log = logging.getLogger(__name__)

MAX_UNREAD = 256
"""Pieces that may wait for a slow reader; then members wait, too."""

Hear = Callable[[TextPiece], Awaitable[None]]
Ask = Callable[[Hear], Awaitable[Ballot]]
"""Asks one member for its ballot, telling pieces of text on the way."""


def _abstention(member: str, error: MemberError, *, latency_s: float) -> Abstention:
    reason = AbstentionReason.ERROR
    if isinstance(error, MemberTimeoutError):
        reason = AbstentionReason.DEADLINE
    elif isinstance(error, MemberRefusedError):
        reason = AbstentionReason.REFUSAL
    return Abstention(member=member, reason=reason, detail=error.problem, latency_s=latency_s)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class FanOut:
    """The calls of one request: leaving the context cancels those still out and waits until they are gone.

    Entering the context begins the calls of ``first``, or all of them.
    """

    def __init__(self, asks: Mapping[str, Ask], *, first: Iterable[str] | None = None) -> None:
        self._asks = asks
        self._first = first
        self._num_out = 0
        self._events: asyncio.Queue[Vote | TextPiece | None] = asyncio.Queue(maxsize=MAX_UNREAD)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._started_s = 0.0

    async def __aenter__(self) -> Self:
        self._started_s = time.monotonic()
        self.begin(self._asks if self._first is None else self._first)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.wait(self._tasks.values())
        crashes = [task.exception() for task in self._tasks.values() if not task.cancelled() and task.exception()]
        for crash in crashes if error else ():
            _log.error("asking a member failed while another error was raised", exc_info=crash)
        if crashes and error is None:
            raise ExceptionGroup("asking members", [crash for crash in crashes if isinstance(crash, Exception)])

    def begin(self, members: Iterable[str]) -> None:
        """Ask these members, none of whom was asked before."""
        for member in members:
            self._tasks[member] = asyncio.create_task(self._ask(member, self._asks[member]), name=f"ask-{member}")
            self._num_out += 1

    async def events(self, *, timeout_s: float, num_turns: int = 1) -> AsyncGenerator[Vote | TextPiece | None]:
        """Yield what members say, one vote each, until all who were asked have voted or ``timeout_s`` is over.

        The time has ``num_turns`` equal parts; None says that one of them, except the last, is over.
        """
        started_s = time.monotonic()
        turn = 1
        while self._num_out:
            try:
                async with asyncio.timeout(max(0.0, started_s + timeout_s * turn / num_turns - time.monotonic())):
                    event = await self._events.get()
            except TimeoutError:
                if turn == num_turns:
                    return
                turn += 1
                yield None
                continue
            if event is None:
                return
            self._num_out -= not isinstance(event, TextPiece)
            yield event

    def stop(self, members: tuple[str, ...], *, reason: AbstentionReason) -> tuple[Abstention, ...]:
        """Cancel these members' calls, if they have begun; returns their abstentions, in the given order."""
        for member in members:
            if member in self._tasks:
                self._tasks[member].cancel()
        latency_s = time.monotonic() - self._started_s
        return tuple(Abstention(member=member, reason=reason, latency_s=latency_s) for member in members)

    async def _ask(self, member: str, ask: Ask) -> None:
        vote: Vote
        try:
            vote = await ask(self._events.put)
        except MemberError as error:
            vote = _abstention(member, error, latency_s=time.monotonic() - self._started_s)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            # Not ours: a connection that closes under a call cancels it, too.
            cut_off = MemberError(member, "its call was cut off")
            vote = _abstention(member, cut_off, latency_s=time.monotonic() - self._started_s)
        except Exception:
            await self._events.put(None)  # A bug, which leaving raises: the events end now, not when time is over.
            raise
        await self._events.put(vote)
