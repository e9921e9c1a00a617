"""Folders that belong to one process each; what processes that were killed leave of theirs is taken away."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock, Timeout

_LOCK_SUFFIX = ".lock"


@contextmanager
def own_folder(parent: Path, *, prefix: str) -> Iterator[Path]:
    """Give a new folder below ``parent``, which vanishes at the end; first those go whose process has gone."""
    parent.mkdir(parents=True, exist_ok=True)
    # Nobody may look for what is left while a folder is there whose lock is not held yet.
    with FileLock(parent / f"{prefix}{_LOCK_SUFFIX}"):
        _remove_left(parent, prefix)
        folder = Path(mkdtemp(prefix=prefix, dir=parent))
        lock = FileLock(_lock_of(folder))
        lock.acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _lock_of(folder).unlink(missing_ok=True)
        lock.release()


def _remove_left(parent: Path, prefix: str) -> None:
    """Remove folders whose lock nobody holds: the system frees it when a process ends, however that ends."""
    # A lock without its folder is of a process that was killed between the two.
    names = {path.name.removesuffix(_LOCK_SUFFIX) for path in parent.glob(f"{prefix}?*")} - {prefix}
    for folder in (parent / name for name in names):
        try:
            with FileLock(_lock_of(folder), blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
                _lock_of(folder).unlink(missing_ok=True)
        except Timeout:
            continue


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_LOCK_SUFFIX}")
