"""Files that are either whole or not there (written aside, synced, renamed), and disks that do not take them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ensemble.errors import ConfigError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk says that is full, or a user's share of it."""


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step.

    Raises:
        ConfigError: the disk does not take it.
    """
    with whole_file(path) as stream:
        stream.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a stream whose content becomes the file in one step at the end, or vanishes after an error.

    Raises:
        ConfigError: the disk does not take it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_watched(path):
        try:
            with partial.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def remove_partials(path: Path) -> None:
    """Take away what killed processes left of a file; nobody may be writing it.

    Raises:
        ConfigError: the disk does not let them go.
    """
    with disk_watched(path):
        for left in path.parent.iterdir():
            stem, _, process = left.name.rpartition(".")
            if stem == f".{path.name}" and process.isdecimal():
                left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a new name outlast a power cut, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_watched(path: Path) -> Iterator[None]:
    """Tell a disk's refusal, such as a full one's, in one sentence.

    Raises:
        ConfigError: what is inside met an OSError.
    """
    try:
        yield
    except OSError as error:
        problem = f"it cannot be written ({error.strerror or error})"
        does = "make room there" if error.errno in FULL else "mend that"
        raise ConfigError(str(path), problem, f"{does} and give the same command again") from error
