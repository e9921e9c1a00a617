"""One process of several makes what all of them want; the others wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ensemble.checkpoints.progress import OnPhase
from ensemble.errors import CheckpointError
from ensemble.files.locks import lock_of

LOCK_TIMEOUT_S = 900.0
"""Converting takes a minute or so; a process that waits longer than this is told instead of hanging."""


@contextmanager
def locked(target: Path, on_phase: OnPhase, *, does: str = "converts") -> Iterator[None]:
    """Hold the lock of what is being made.

    Raises:
        CheckpointError: another process has held it for long.
    """
    lock = lock_of(target)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_phase(f"wait for another process that {does} it", 0.0)
        _wait_for(lock, target)
    try:
        yield
    finally:
        lock.release()


def _wait_for(lock: FileLock, target: Path) -> None:
    try:
        lock.acquire(timeout=LOCK_TIMEOUT_S)
    except Timeout as error:
        raise CheckpointError(
            str(target), f"another process has held its lock for {LOCK_TIMEOUT_S:.0f} s", "end that process and retry"
        ) from error
