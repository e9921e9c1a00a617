"""One actor of the cluster hears from replicas that start: Serve's own replicas cannot be asked before they are up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from ensemble import __version__
from ensemble.errors import EnsembleError, StartError
from ensemble.router.replica_start import ReplicaStart
from ensemble.serving.namespace import NAMESPACE
from ensemble.serving.start_notes import ReplicaName, StartNotes

BOARD = f"starts-{__version__}"
LOOK_PERIOD_S = 0.5
"""How often a replica looks whether there is something new to tell."""
HEARTBEAT_S = 5.0
"""How often it tells when there is nothing new."""
LAST_WORD_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 2.0
"""How long someone who asks again and again waits for the board."""
MAX_PROBLEM_CHARS = 2_000
UNUSED_S = 24 * 3_600.0
"""The board ends itself when it has heard nothing for so long; the next replica that starts starts another."""


@ray.remote(num_cpus=0, max_restarts=-1)
class StartBoard:
    """Keeps the notes; when it dies, replicas' next words make it whole again."""

    def __init__(self, unused_s: float = UNUSED_S) -> None:
        self._notes = StartNotes()
        self._unused_s = unused_s
        self._end: asyncio.TimerHandle | None = None

    async def hear(self, replica: ReplicaName, phase: str, share: float, problem: str) -> None:
        """Take in where a replica is."""
        self._notes.hear(replica, phase, share, problem)
        self._put_off_end()

    async def forget(self, replica: ReplicaName) -> None:
        """Forget a replica that is up."""
        self._notes.forget(replica)
        self._put_off_end()

    async def tell(self, application: str) -> dict[str, tuple[ReplicaStart, ...]]:
        """Say where an application's replicas are, by deployment."""
        return self._notes.tell(application)

    def _put_off_end(self) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = asyncio.get_running_loop().call_later(self._unused_s, _end_self)


def _end_self() -> None:
    ray.kill(ray.get_runtime_context().current_actor)


def start_board(name: str = BOARD, *, unused_s: float = UNUSED_S) -> Any:
    """Give the cluster's board; the replica that needs it first starts it.

    It outlives that replica, so it must not be in the replica's placement group, as its children would be.
    """
    return StartBoard.options(  # type: ignore[attr-defined]
        name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, scheduling_strategy="DEFAULT"
    ).remote(unused_s)


def read_starts(application: str, *, timeout_s: float = READ_TIMEOUT_S) -> dict[str, tuple[ReplicaStart, ...]]:
    """Say where an application's replicas are, by deployment; nothing when there is no board, or it does not answer."""
    try:
        board: Any = ray.get_actor(BOARD, namespace=NAMESPACE)
        starts: dict[str, tuple[ReplicaStart, ...]] = ray.get(board.tell.remote(application), timeout=timeout_s)
    except (ValueError, RayError, TimeoutError):
        return {}
    return starts


@dataclass(slots=True, kw_only=True)
class StartTeller:
    """Tells the board where a replica's start is: what is new every half second, and every few seconds in any case."""

    board: Any
    replica: ReplicaName
    _at: tuple[str, float] = ("process is up", 0.0)

    @property
    def phase(self) -> str:
        """What the start is at."""
        return self._at[0]

    def on_phase(self, name: str, share: float) -> None:
        """Note where the start is; from any thread."""
        self._at = (name, share)

    async def run(self) -> None:
        """Tell until cancelled. Nothing waits for the board: it may be slow, or away."""
        event_loop = asyncio.get_running_loop()
        told, told_s = ("", 0.0), 0.0
        while True:
            if self._at != told or event_loop.time() - told_s >= HEARTBEAT_S:
                told, told_s = self._at, event_loop.time()
                self.board.hear.remote(self.replica, *told, "")
            await asyncio.sleep(LOOK_PERIOD_S)

    async def say_last(self, problem: str) -> None:
        """Tell how the start ended, and wait a moment for it to arrive: this process may end right after."""
        last = self.board.hear.remote(self.replica, *self._at, problem) if problem else None
        with suppress(RayError, TimeoutError):
            async with asyncio.timeout(LAST_WORD_TIMEOUT_S):
                await (last or self.board.forget.remote(self.replica))


@asynccontextmanager
async def start_told(board: Any, replica: ReplicaName) -> AsyncIterator[StartTeller]:
    """Tell the board how the block, a replica's start, goes.

    Raises:
        StartError: the block failed. Serve says so too when it gives up, and the board may be slow, or away.
    """
    teller = StartTeller(board=board, replica=replica)
    telling = asyncio.create_task(teller.run(), name="start-teller")
    problem = "it was stopped before it was up"
    try:
        yield teller
        problem = ""
    except Exception as error:
        problem = describe_failure(error)
        raise StartError(problem, teller.phase) from error
    finally:
        telling.cancel()
        await teller.say_last(problem)


def describe_failure(error: Exception) -> str:
    """Tell a failure in one line: our errors speak for themselves, others bring their class."""
    text = str(error) if isinstance(error, EnsembleError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:MAX_PROBLEM_CHARS]
