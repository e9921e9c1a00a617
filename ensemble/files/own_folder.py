"""Folders that belong to one process each; what processes that were killed leave of theirs is taken away."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from ensemble.files.locks import drop_lock, find_locked, lock_of, locked_if_free


@contextmanager
def own_folder(parent: Path, *, prefix: str) -> Iterator[Path]:
    """Give a new folder below ``parent``, which vanishes at the end; first those go whose process has gone."""
    parent.mkdir(parents=True, exist_ok=True)
    # Nobody may look for what is left while a folder is there whose lock is not held yet.
    with lock_of(parent / prefix):
        _remove_left(parent, prefix)
        folder = Path(mkdtemp(prefix=prefix, dir=parent))
        lock = lock_of(folder)
        lock.acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        drop_lock(folder)
        lock.release()


def _remove_left(parent: Path, prefix: str) -> None:
    """Remove folders whose lock nobody holds."""
    # A lock without its folder is of a process that was killed between the two.
    for folder in {*parent.glob(f"{prefix}?*"), *find_locked(parent, prefix=prefix)}:
        with locked_if_free(folder) as is_held:
            if is_held:
                shutil.rmtree(folder, ignore_errors=True)
                drop_lock(folder)
