"""One process of several makes what all of them want; the others wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ensemble.checkpoints.progress import OnPhase
from ensemble.errors import CheckpointError

_SUFFIX = ".lock"
LOCK_TIMEOUT_S = 900.0
"""Converting takes a minute or so; a process that waits longer than this is told instead of hanging."""


@contextmanager
def locked(target: Path, on_phase: OnPhase, *, does: str = "converts") -> Iterator[None]:
    """Hold the lock of what is being made; the system frees it when its holder's process ends, however that ends.

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


@contextmanager
def locked_if_free(target: Path) -> Iterator[bool]:
    """Hold the lock of what is being made, unless another process does; says whether it is held here."""
    lock = lock_of(target)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_lock(name: str) -> bool:
    """Say by a file's name whether it is a lock's; it stays, since others may be about to hold that very file."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def lock_of(target: Path) -> FileLock:
    """Give the lock of what is being made; it lies beside it, whether that is there yet or not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(target.with_name(f".{target.name}{_SUFFIX}"))


def _wait_for(lock: FileLock, target: Path) -> None:
    try:
        lock.acquire(timeout=LOCK_TIMEOUT_S)
    except Timeout as error:
        raise CheckpointError(
            str(target), f"another process has held its lock for {LOCK_TIMEOUT_S:.0f} s", "end that process and retry"
        ) from error
