"""A header that lies is told as damage, before anything of its size is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.checkpoints.measure import measure_checkpoint
from ensemble.checkpoints.store import CheckpointStore
from ensemble.errors import CheckpointError
from ensemble.files.location import Location
from tests.checkpoints.stores import object_files, put, url_of

METADATA = b'{"__metadata__": {"format": "pt"}, '


def store_with(header: bytes, checkpoint: Path, folder: Path, *, length: int | None = None) -> str:
    """Store a checkpoint whose weights' file, of unchanged size, begins so; gives its reference."""
    url = url_of("remote", folder)
    put(CheckpointStore.at(url), checkpoint, "tiny")
    (weights,) = (path for path in object_files(folder) if path.name == "model.safetensors")
    begins = (len(header) if length is None else length).to_bytes(8, "little") + header
    weights.write_bytes(begins.ljust(weights.stat().st_size, b" "))
    return f"store:tiny@{url}"


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"[]", "it has a list in place of a mapping"),
        (b"nothing", "it cannot be read"),
        (b"[" * 20_000, "it cannot be read"),
        (METADATA + b'"a": 3}', r"its header is damaged \(a: "),
        (METADATA + b'"a": {"shape": [1]}}', r"its header is damaged \(a\.dtype: Field required\)"),
        (METADATA + b'"a": {"dtype": "F32", "shape": 3}}', r"its header is damaged \(a\.shape: "),
        (METADATA + b'"a": {"dtype": "F32", "shape": [1, -3]}}', r"its header is damaged \(a\.shape\.1: "),
    ],
)
def test_a_header_that_is_none_is_told_as_damage(header: bytes, told: str, checkpoint: Path, tmp_path: Path) -> None:
    reference = store_with(header, checkpoint, tmp_path / "store")

    with pytest.raises(CheckpointError, match=told) as caught:
        measure_checkpoint(reference, cache_dir=tmp_path / "cache")

    assert caught.value.where.endswith("/model.safetensors")


def test_a_header_too_long_to_be_one_is_not_read(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = store_with(b"{}", checkpoint, tmp_path / "store", length=100_000_001)
    ends, read = list[int | None](), Location.read

    def watch(place: Location, start: int | None = None, end: int | None = None) -> bytes:
        ends.append(end)
        return read(place, start, end)

    monkeypatch.setattr(Location, "read", watch)

    with pytest.raises(CheckpointError, match="its header has 100000001 bytes, and 100000000 are the most"):
        measure_checkpoint(reference, cache_dir=tmp_path / "cache")

    assert max(end for end in ends if end is not None) == 8
