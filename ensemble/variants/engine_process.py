"""An engine in a process of its own, so that its memory and its processor time are its alone.

Several such processes may be there at once and take turns: one that is not asked waits and costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ensemble.calibration.items import LabelledItem
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.engines.prompt_format import PromptFormat
from ensemble.errors import EnsembleError, MemberError, MemberUnavailableError
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.measure_items import ask_items
from ensemble.variants.measure_speed import SpeedRound, SpeedTask, measure_round
from ensemble.voting.ballot import Vote

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from ensemble.engines.engine import Engine

_log = logging.getLogger(__name__)

END_S = 20.0
"""An engine that is told to end and does not is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOrder:
    """What a process runs."""

    name: str
    checkpoint: str
    is_classifier: bool
    setup: EngineSetup


class EngineProcess:
    """Calls block until the other process has done them.

    Each raises what the engine raises; what is no error of ours is a MemberError that names it. MemberUnavailableError
    says how a process has ended.
    """

    def __init__(self, order: EngineOrder) -> None:
        self._order = order
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def start(self, on_phase: OnPhase = ignore_phase) -> None:
        """Start the process and load the checkpoint."""
        # A forked process would have this one's threads' locks, and its memory.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._order), name=f"engine {self._order.name}")
        self._process.start()
        theirs.close()
        self._call("start", on_phase=on_phase)

    @property
    def pid(self) -> int:
        """The process's number.

        Raises:
            MemberUnavailableError: there is no process.
        """
        if self._process is None or self._process.pid is None:
            raise MemberUnavailableError(self._order.name, "its process was not started")
        return self._process.pid

    def resident_bytes(self) -> int:
        """Give what the process's memory has grown by since before the checkpoint was loaded."""
        grown: int = self._call("resident_bytes")
        return grown

    def ask(
        self, items: Sequence[LabelledItem], *, prompt: PromptFormat | None = None, on_phase: OnPhase = ignore_phase
    ) -> tuple[Vote, ...]:
        """Have every item's choices scored, by another prompt format than the order's where one is given."""
        votes: tuple[Vote, ...] = self._call("ask", tuple(items), prompt, on_phase=on_phase)
        return votes

    def measure_round(self, task: SpeedTask) -> SpeedRound:
        """Measure the engine's speed once."""
        measured: SpeedRound = self._call("measure_round", task)
        return measured

    def close(self) -> None:
        """End the process; idempotent."""
        if self._process is None or self._connection is None:
            return
        self._connection.close()
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._process = self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, name: str, *arguments: object, on_phase: OnPhase = ignore_phase) -> Any:
        if self._connection is None:
            raise MemberUnavailableError(self._order.name, "its process was not started")
        self._reach(self._connection.send, (name, arguments))
        while True:
            what, content = self._reach(self._connection.recv)
            if what == "phase":
                on_phase(*content)
            elif what == "error":
                raise content
            else:
                return content

    def _reach(self, do: Callable[..., Any], *sent: object) -> Any:
        try:
            return do(*sent)
        except (EOFError, OSError) as error:
            raise MemberUnavailableError(self._order.name, self._describe_end()) from error

    def _describe_end(self) -> str:
        """Say how the process ended, as far as it did."""
        if self._process is None:
            return "its process was not started"
        self._process.join(END_S)
        code = self._process.exitcode
        if code is None:
            return "its process answers no more"
        if code == -signal.SIGKILL:
            return "its process was killed (SIGKILL); was it out of memory?"
        if code < 0:
            return f"its process ended by signal {-code} ({signal.strsignal(-code)})"
        return f"its process ended with exit code {code}"


def _serve(connection: Connection, order: EngineOrder) -> None:
    """Be the other process."""
    # Whoever asked may be gone in the middle of an answer.
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        asyncio.run(_Server(connection, order).run())


class _Server:
    """Does what is asked until the pipe is closed, also by the end of whoever asks."""

    def __init__(self, connection: Connection, order: EngineOrder) -> None:
        self._connection = connection
        self._order = order
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._bytes_before = 0

    async def run(self) -> None:
        try:
            while True:
                name, arguments = await asyncio.to_thread(self._connection.recv)
                try:
                    self._send("done", await getattr(self, f"_do_{name}")(*arguments))
                except EnsembleError as error:
                    self._send("error", error)
                except Exception as error:  # noqa: BLE001 - this is the process's border
                    _log.exception("%s: %s failed", self._order.name, name)
                    self._send("error", MemberError(self._order.name, _name_error(error)))
        finally:
            if self._engine is not None:
                await self._engine.close()

    async def _do_start(self) -> None:
        engine = self._build(self._order.setup)
        self._bytes_before = _read_resident_bytes()
        await engine.start(self._tell)
        self._engine = engine

    async def _do_resident_bytes(self) -> int:
        return _read_resident_bytes() - self._bytes_before

    async def _do_ask(self, items: tuple[LabelledItem, ...], prompt: PromptFormat | None) -> tuple[Vote, ...]:
        num_asked = 0

        def count() -> None:
            nonlocal num_asked
            num_asked += 1
            self._tell("items", num_asked / len(items))

        if prompt is None or prompt == self._order.setup.prompt:
            return await ask_items(self._started(), self._order.name, items, on_item=count)
        other = self._build(replace(self._order.setup, prompt=prompt))
        await other.start()
        try:
            return await ask_items(other, self._order.name, items, on_item=count)
        finally:
            await other.close()

    async def _do_measure_round(self, task: SpeedTask) -> SpeedRound:
        return await measure_round(self._started(), task)

    def _build(self, setup: EngineSetup) -> Engine:
        return setup.build(self._order.checkpoint, self._order.name, is_classifier=self._order.is_classifier)

    def _started(self) -> Engine:
        if self._engine is None:
            raise MemberUnavailableError(self._order.name, "its engine was not started")
        return self._engine

    def _tell(self, phase: str, share: float) -> None:
        self._send("phase", (phase, share))

    def _send(self, what: str, content: object) -> None:
        # Phases are told from any thread.
        with self._lock:
            self._connection.send((what, content))


def _name_error(error: Exception) -> str:
    """Tell an error of anybody's in one line; what follows in a longer one is advice."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _read_resident_bytes() -> int:
    """Read this process's resident memory; other systems than Linux do not tell it that way."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells VmRSS")
