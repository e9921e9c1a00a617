"""Processes that take turns on a GPU; what they do is told in a journal, since they share nothing else.

Kept apart from the tests: a process imports this, and torch only where it starts an engine.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from ensemble.engines.gpu_turn import gpu_turn

GENEROUS_S = 240.0
GPU = "GPU-of-these-tests"


def note(folder: Path, name: str, event: str) -> None:
    """Append an event to the one journal of all processes."""
    with (folder / "journal").open("a") as journal:
        journal.write(json.dumps([name, event]) + "\n")


def read_journal(folder: Path) -> list[tuple[str, str]]:
    """Give who did what, in order."""
    path = folder / "journal"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def run_engine(folder: Path, checkpoint: str, name: str) -> None:
    """Start a real engine in its turn; the body of a process."""
    from ensemble.engines.config import EmbeddedEngineConfig  # noqa: PLC0415 - see above
    from ensemble.engines.embedded import EmbeddedEngine  # noqa: PLC0415
    from ensemble.engines.prompt_format import PromptFormat  # noqa: PLC0415

    async def run() -> None:
        config = EmbeddedEngineConfig(device="cpu", threads=1, max_batch=2, max_context=64)
        engine = EmbeddedEngine(config, checkpoint=checkpoint, member=name, prompt_format=PromptFormat())
        async with gpu_turn([GPU], member=name, folder=folder, timeout_s=GENEROUS_S, on_phase=lambda *_: None):
            note(folder, name, "starts")
            await engine.start()
            note(folder, name, "started")
        await engine.close()

    asyncio.run(run())


def hold(folder: Path, name: str) -> None:
    """Take the turn and never give it back; the body of a process."""

    async def run() -> None:
        async with gpu_turn([GPU], member=name, folder=folder, timeout_s=GENEROUS_S, on_phase=lambda *_: None):
            note(folder, name, "starts")
            await asyncio.sleep(10 * GENEROUS_S)

    asyncio.run(run())


def wait_for(folder: Path, name: str, event: str) -> None:
    """Return once a process has told it."""
    until_s = time.monotonic() + GENEROUS_S
    while (name, event) not in read_journal(folder):
        if time.monotonic() > until_s:
            raise TimeoutError(f"{name} never {event}")
        time.sleep(0.05)  # another process's file is all there is to go by
