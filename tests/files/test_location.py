"""Locations read, write and list alike on a disk and in a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.errors import ConfigError
from ensemble.files.location import Location
from tests.files.strict_store import FakeStrictStore


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    location = Location.of(str(tmp_path) if request.param == "disk" else f"memory:/{tmp_path}")
    location.make_folder()
    return location


def test_what_was_written_is_read_listed_and_removed(folder: Location) -> None:
    one = folder.child("one")

    one.write(b"first")
    one.write(b"second")

    assert one.read() == b"second"
    assert one.exists()
    assert folder.names() == {"one"}
    one.remove()
    assert not one.exists()
    assert folder.names() == frozenset()
    assert folder.child("none").names() == frozenset()


def test_what_failed_half_way_leaves_what_was_there(folder: Location) -> None:
    one = folder.child("one")
    one.write(b"whole")

    with pytest.raises(TypeError), one.writing() as stream:
        stream.write(b"half" + "and half")  # type: ignore[operator]

    assert one.read() == b"whole"
    assert folder.names() == {"one"}


def test_a_store_that_moves_nothing_onto_a_file_takes_the_same_bytes_again_and_no_others() -> None:
    folder = Location(filesystem=FakeStrictStore(), path="/folder")
    one = folder.child("one")
    one.write(b"first")

    one.write(b"first")
    with pytest.raises(ConfigError, match="it cannot be written"):
        one.write(b"first and more")
    with pytest.raises(ConfigError, match="it cannot be written"):
        one.write(b"fir")

    assert one.read() == b"first"
    assert folder.names() == {"one"}


def test_what_cannot_be_read_or_written_is_one_clear_error(folder: Location) -> None:
    with pytest.raises(ConfigError, match="none: it cannot be read"):
        folder.child("none").read()


def test_a_folder_is_removed_although_this_process_stands_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, folder = tmp_path / "gone", Location.of(str(tmp_path / "folder"))
    gone.mkdir()
    folder.make_folder()
    folder.child("file").write(b"")
    monkeypatch.chdir(gone)
    gone.rmdir()

    folder.remove()

    assert not (tmp_path / "folder").exists()
