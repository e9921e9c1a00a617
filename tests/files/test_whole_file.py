"""What a disk does not take is told with what is to be done about it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ensemble.errors import ConfigError
from ensemble.files.whole_file import disk_watched, write_whole


def test_a_full_disk_asks_for_room_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"\(No space left\); make room there") as full, disk_watched(tmp_path):
        raise OSError(errno.ENOSPC, "No space left")
    with pytest.raises(ConfigError, match=r"\(Not a directory\); mend that") as blocked:
        write_whole(tmp_path / "file" / "inside", b"")

    assert full.value.where == str(tmp_path)
    assert blocked.value.where == str(tmp_path / "file" / "inside")
