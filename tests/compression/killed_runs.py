"""Compressions in processes of their own, which can be killed where they are told to be."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ensemble.checkpoints.write import write_checkpoint
from ensemble.compression import work_folder
from ensemble.compression.compress import Variant, make_variants
from ensemble.compression.recipe import Recipe
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path

    from ensemble.compression.standing import Standing

TIMEOUT_S = 120.0
MAX_FILE_BYTES = 50_000
"""Of a full disk."""
ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a process is to make: each recipe's result in the folder of its name."""

    source: str
    recipe_by_name: dict[str, Any]
    output: Path
    cache_dir: Path
    full_from: str | None = None
    """The part from which on the disk is full, as far as files longer than MAX_FILE_BYTES are concerned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """Where a process kills or stops itself: at so many events of a part, or once a step's state is written aside."""

    variant: str
    part: str
    num_events: int = 1
    signal: int = signal.SIGKILL


KEEPING = Kill(variant="", part="keep")


def start(command: Command, kill: Kill | None = None) -> tuple[ForkServerProcess, Connection]:
    """Start a process that makes what the command says; gives what it tells its events to."""
    context = multiprocessing.get_context("forkserver")
    # Importing torch and transformers takes longer than everything else here.
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_make, args=(command, kill, sender))
    process.start()
    sender.close()
    return process, receiver


def run(command: Command, kill: Kill | None = None) -> tuple[int, list[tuple[str, str]]]:
    """Run a command to its end; gives its exit code, and each event's variant and part, or ERROR and the reason."""
    process, receiver = start(command, kill)
    events = []
    try:
        while receiver.poll(TIMEOUT_S):
            events.append(receiver.recv())
    except EOFError:
        pass
    process.join(TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(str(events[-3:]))
    return process.exitcode, events


def _make(command: Command, kill: Kill | None, sender: Connection) -> None:
    torch.set_num_threads(1)
    num_heard = 0

    def hear(standing: Standing) -> None:
        nonlocal num_heard
        sender.send((standing.variant, standing.part))
        if command.full_from == standing.part:
            resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
        if kill and (kill.variant, kill.part) == (standing.variant, standing.part):
            num_heard += 1
            if num_heard == kill.num_events:
                os.kill(os.getpid(), kill.signal)

    if kill == KEEPING:
        _kill_after_writing()
    variants = [
        Variant(recipe=Recipe.model_validate(recipe), output=command.output / name)
        for name, recipe in command.recipe_by_name.items()
    ]
    try:
        make_variants(command.source, variants, cache_dir=command.cache_dir, on_progress=hear)
    except ConfigError as error:
        sender.send((ERROR, str(error)))
        sys.exit(1)


def _kill_after_writing() -> None:
    write = write_checkpoint

    def write_and_die(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    work_folder.write_checkpoint = write_and_die  # type: ignore[attr-defined]  # this process has not long to live
