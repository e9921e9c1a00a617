"""Locks of what lies on a disk, or is to: one process of several makes it, or has it; where they are and their names.

The system frees a lock when its holder's process ends, however that ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "."
_SUFFIX = ".lock"


def lock_of(target: Path) -> FileLock:
    """Give a target's lock; it lies beside it, whether that is there yet or not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(target.with_name(f"{_PREFIX}{target.name}{_SUFFIX}"))


@contextmanager
def locked_if_free(target: Path) -> Iterator[bool]:
    """Hold a target's lock, unless another process does; says whether it is held here."""
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


def drop_lock(target: Path) -> None:
    """Take away the file of a lock that is held here, of a target for which nobody else will ask."""
    Path(lock_of(target).lock_file).unlink(missing_ok=True)


def is_lock(name: str) -> bool:
    """Say by a file's name whether it is a lock's; it stays, since others may be about to hold that very file."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def find_locked(parent: Path, *, prefix: str = "") -> list[Path]:
    """List the targets in a folder that have a lock, held or not; their names begin so."""
    locks = parent.glob(f"{_PREFIX}{prefix}?*{_SUFFIX}")
    return [parent / lock.name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for lock in locks]
