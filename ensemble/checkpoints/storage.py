"""Files and folders that are either whole or not there: written aside, synced, then renamed."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager
from glob import escape
from tempfile import mkdtemp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PARTIAL = re.compile(r"\.partial-(?P<target>.+)-.{8}")
"""What is written aside, with mkdtemp's eight characters."""


@contextmanager
def write_folder_whole(target: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes ``target`` at the end and vanishes after an error.

    Raises:
        OSError: ``target`` exists and is not an empty folder, or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = type(target)(mkdtemp(prefix=_partial_prefix(target), dir=target.parent))
    try:
        yield partial
        # mkdtemp and safetensors write for the owner only, and another user's replica may read the cache.
        partial.chmod(0o755)
        for path in sorted(partial.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
            _sync(path)
        _sync(partial)
        partial.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_leftovers(target: Path) -> None:
    """Remove what killed writers of ``target`` left; only for the one who holds its lock."""
    # Exactly mkdtemp's eight characters: another target's name may begin as this one's does.
    for partial in target.parent.glob(escape(_partial_prefix(target)) + "?" * 8):
        shutil.rmtree(partial, ignore_errors=True)


def name_of_leftover(name: str) -> str:
    """Name what was to become of something that is written aside; empty where it is nothing of the kind."""
    match = _PARTIAL.fullmatch(name)
    return match["target"] if match else ""


def write_text_whole(target: Path, text: str) -> None:
    """Replace a small file in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_text(text, "utf-8")
    _sync(partial)
    partial.replace(target)


def _partial_prefix(target: Path) -> str:
    return f".partial-{target.name}-"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
