"""Disks without room, told before and when it happens."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from safetensors import SafetensorError

from ensemble.compression.full_disk import check_room, full_disk_told
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_room_that_is_not_there_is_told_in_figures(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"MiB are free on its disk, and at least 1099511627776 MiB are needed"):
        check_room([(tmp_path / "not" / "there" / "yet", 2**60)])


def test_what_is_written_to_one_disk_is_added_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at least 2199023255552 MiB are needed"):
        check_room([(tmp_path / "a", 2**60), (tmp_path / "b", 2**60)])


def test_room_that_is_there_is_no_error(tmp_path: Path) -> None:
    check_room([(tmp_path, 1), (tmp_path / "new", 1)])


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_is_one_sentence(tmp_path: Path, error: Exception) -> None:
    problem = "it cannot be written .*No space left on device.*; make room there"

    with pytest.raises(ConfigError, match=problem), full_disk_told(tmp_path):
        raise error


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), SafetensorError("header")])
def test_other_failures_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), full_disk_told(tmp_path):
        raise error
