"""Disks that are full: told in one sentence when it happens, and before long work where it can be known."""

from __future__ import annotations

import shutil
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from ensemble.errors import ConfigError
from ensemble.files.whole_file import FULL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_MIB = 2**20


@contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """Tell what a disk refuses to take.

    Raises:
        ConfigError: what is inside met a full disk, a quota or a limit.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _refusal(path, error.strerror) from error
    except SafetensorError as error:
        # The library keeps the number in its text alone.
        if not any(f"os error {number})" in str(error) for number in FULL):
            raise
        raise _refusal(path, str(error)) from error


def check_room(needed_by_folder: Sequence[tuple[Path, int]]) -> None:
    """See that disks have room for what will be written into folders, which need not exist.

    Raises:
        ConfigError: one has less than is needed at the least.
    """
    needed_by_disk: dict[int, int] = defaultdict(int)
    place_by_disk: dict[int, Path] = {}
    for folder, needed_bytes in needed_by_folder:
        place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        disk = place.stat().st_dev
        needed_by_disk[disk] += needed_bytes
        place_by_disk.setdefault(disk, place)
    for disk, needed_bytes in needed_by_disk.items():
        free_bytes = shutil.disk_usage(place_by_disk[disk]).free
        if free_bytes < needed_bytes:
            free, needed = free_bytes / _MIB, needed_bytes / _MIB
            raise ConfigError(
                str(place_by_disk[disk]),
                f"{free:.0f} MiB are free on its disk, and at least {needed:.0f} MiB are needed",
                "make room there, or name another place (ENSEMBLE_CACHE_DIR is where steps' results are kept)",
            )


def _refusal(path: Path, problem: str | None) -> ConfigError:
    return ConfigError(
        str(path), f"it cannot be written ({problem})", "make room there and give the same command again"
    )
