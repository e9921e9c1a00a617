"""From a reference into a store to a folder of this machine that holds the bytes that its digest promises."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from ensemble.checkpoints.locks import locked
from ensemble.checkpoints.progress import OnPhase
from ensemble.checkpoints.reference import StoreReference
from ensemble.checkpoints.storage import remove_leftovers, write_folder_whole, write_text_whole
from ensemble.checkpoints.store import CheckpointStore
from ensemble.checkpoints.store_object import StoreObject


def resolve_stored(reference: StoreReference, *, cache_dir: Path, on_phase: OnPhase) -> Path:
    """Give the folder of a stored checkpoint: its place in a store on this machine's disk, else a copy in the cache.

    A copy is made once; a place is read through once, and again when its files have changed.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        ConfigError: the store cannot be reached.
        OSError: the cache does not take it.
    """
    if reference.digest and (copy := _copy_of(reference.digest, cache_dir)).is_dir():
        return copy  # even where the store is out of reach
    stored = CheckpointStore.at(reference.url).find(reference)
    if stored.location.is_local:
        _check_once(stored, cache_dir=cache_dir, on_phase=on_phase)
        return stored.location.local_path
    return _fetch_once(stored, _copy_of(stored.digest, cache_dir), on_phase)


def find_stored(reference: StoreReference, *, cache_dir: Path) -> Path | None:
    """Give the folder of a stored checkpoint that this machine has already; None where it would be fetched.

    Raises:
        CheckpointError: there is no such checkpoint.
        ConfigError: the store cannot be reached.
    """
    if reference.digest and (copy := _copy_of(reference.digest, cache_dir)).is_dir():
        return copy
    stored = CheckpointStore.at(reference.url).find(reference)
    if stored.location.is_local:
        stored.check_sizes()
        return stored.location.local_path
    copy = _copy_of(stored.digest, cache_dir)
    return copy if copy.is_dir() else None


def _copy_of(digest: str, cache_dir: Path) -> Path:
    return cache_dir / "fetched" / digest.replace(":", "-")


def _fetch_once(stored: StoreObject, copy: Path, on_phase: OnPhase) -> Path:
    if copy.is_dir():
        return copy
    with locked(copy, on_phase, does="fetches"):
        # Whoever held the lock before may have done the work.
        if not copy.is_dir():
            remove_leftovers(copy)
            with write_folder_whole(copy) as partial:
                stored.fetch(partial, on_phase)
    return copy


def _check_once(stored: StoreObject, *, cache_dir: Path, on_phase: OnPhase) -> None:
    manifest = stored.check_sizes()
    state = []
    for name in sorted(manifest.files):
        path = stored.location.local_path / name
        stat = path.stat()
        state.append(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}")
    memo = cache_dir / "digests" / hashlib.sha256("\n".join([stored.digest, *state]).encode()).hexdigest()
    if memo.exists():
        return
    stored.check_bytes(on_phase)
    # Who cannot keep it reads the files through at each start.
    with suppress(OSError):
        write_text_whole(memo, stored.digest)
