"""Files that are either whole or not there (written aside, synced, renamed), and disks that do not take them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ensemble.errors import ConfigError


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step.

    Raises:
        ConfigError: the disk does not take it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_watched(path):
        try:
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


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
        raise ConfigError(str(path), problem, "make room there and give the same command again") from error
