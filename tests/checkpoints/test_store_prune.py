"""Pruning takes what nobody wants, and nothing of what somebody is storing at that moment."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ensemble.checkpoints.content import find_content
from ensemble.checkpoints.store import CheckpointStore, StoredName
from ensemble.checkpoints.store_listing import list_models
from ensemble.checkpoints.store_manifest import MANIFEST
from ensemble.errors import CheckpointError
from ensemble.files.location import Location
from tests.checkpoints.stores import object_files, put, url_of
from tests.files.strict_store import FakeStrictStore


def make_old(folder: Path) -> None:
    long_ago = time.time() - 10_000
    for path in folder.rglob("*"):
        os.utime(path, (long_ago, long_ago))


def put_while(store: CheckpointStore, folder: Path, act: Callable[[str], None]) -> None:
    """Store a folder as "wanted", and do something in each phase of that."""
    store.put(folder, "wanted", family="tiny", source="x", on_phase=lambda phase, _share: act(phase))


def test_what_no_name_leads_to_is_pruned_once_it_is_old(
    checkpoint: Path, other: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    gone, stays = put(store, checkpoint, "gone"), put(store, other, "stays")
    assert store.remove("gone").digest == gone
    (half := next(tmp_path.rglob("objects")) / "sha256-half").mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    (half.parent / f".partial-{gone.replace(':', '-')}-12345678").mkdir()
    locks = set(half.parent.glob(".*.lock"))

    assert list(store.prune()) == []
    make_old(tmp_path / "store")
    removed = dict(store.prune())

    assert removed.keys() == {
        f".partial-{gone.replace(':', '-')}-12345678",
        "sha256-half",
        gone.replace(":", "-"),
    }
    assert removed["sha256-half"] == 4
    assert {path.parent.name for path in object_files(tmp_path)} == {stays.replace(":", "-")}
    assert not list_models(store)[0].problem
    # Whoever waits for a lock waits for that very file.
    assert locks <= set(half.parent.glob(".*.lock"))


def test_what_is_named_after_pruning_began_stays(
    checkpoint: Path, other: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    folder_by_digest = {put(store, folder, folder.name): folder for folder in (checkpoint, other)}
    for folder in (checkpoint, other):
        store.remove(folder.name)
    make_old(tmp_path / "store")
    first, second = sorted(folder_by_digest)

    pruning = store.prune(grace_s=0.0)
    assert next(pruning)[0] == first.replace(":", "-")
    assert put(store, folder_by_digest[second], "wanted") == second

    assert list(pruning) == []
    assert not list_models(store)[0].problem


@pytest.mark.parametrize("is_there", [True, False], ids=["an old object", "nothing"])
def test_what_a_process_of_this_machine_stores_is_kept_by_its_lock(
    is_there: bool,  # noqa: FBT001 - pytest gives it by name
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    store, pruned = CheckpointStore.at(str(tmp_path / "store")), dict[str, list[tuple[str, int]]]()
    if is_there:
        put(store, checkpoint, "old")
        store.remove("old")

    def prune(phase: str) -> None:
        # The hash of what is to be stored comes before: nobody has said yet that it is wanted.
        if "store" in phase or pruned:
            make_old(tmp_path / "store")
            pruned[phase] = list(store.prune(grace_s=0.0))

    put_while(store, checkpoint, prune)

    assert pruned.keys() == ({"store its name"} if is_there else {"store", "store its manifest", "store its name"})
    assert not any(pruned.values())
    assert not list_models(store)[0].problem


def test_what_is_stored_behind_a_url_is_kept_by_its_time(checkpoint: Path, tmp_path: Path) -> None:
    store, pruned = CheckpointStore.at(url_of("remote", tmp_path / "store")), list[str]()
    put(store, checkpoint, "old")
    store.remove("old")
    make_old(tmp_path / "store")
    num_files, told = len(find_content(checkpoint)), list[str]()

    def prune(phase: str) -> None:
        told.append(phase)
        # The first reading is of what is to be stored.
        if len(told) > num_files:
            pruned.extend(name for name, _ in store.prune())

    put_while(store, checkpoint, prune)

    assert told.count("check digest") > num_files
    assert pruned == []
    assert not list_models(store)[0].problem


def test_a_store_that_moves_nothing_onto_a_file_keeps_what_is_being_stored_by_its_time(checkpoint: Path) -> None:
    filesystem, pruned, told = FakeStrictStore(), list[str](), list[str]()
    store = CheckpointStore(root=Location(filesystem=filesystem, path="/store"))
    digest = put(store, checkpoint, "old")
    store.remove("old")
    num_files = len(find_content(checkpoint))

    def age_or_prune(phase: str) -> None:
        told.append(phase)
        if len(told) <= num_files:
            for file in filesystem.store.values():
                file.modified -= timedelta(days=1)
            return
        pruned.extend(name for name, _ in store.prune())

    put_while(store, checkpoint, age_or_prune)

    assert told.count("check digest") > num_files
    assert pruned == []
    assert not list_models(store)[0].problem
    put(store, checkpoint, "again")
    assert len([name for name in store.object(digest).location.names() if name.startswith(".")]) == 1


def test_what_is_taken_away_while_it_is_stored_gets_no_name(checkpoint: Path, tmp_path: Path) -> None:
    store = CheckpointStore.at(url_of("remote", tmp_path / "store"))

    def take(phase: str) -> None:
        if phase == "store its manifest":
            next(path for path in object_files(tmp_path) if path.name == "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"model\.safetensors is absent"):
        put_while(store, checkpoint, take)

    assert store.names() == ()


@pytest.mark.parametrize("moment", ["is_folder", "changed_at", "size_bytes", "exists"])
def test_what_goes_while_it_is_looked_at_does_not_stop_pruning(
    moment: str, store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.root.child("objects").make_folder()
    objects = next(tmp_path.rglob("objects"))
    names = ("sha256-first", f"sha256-{'0' * 64}", f"sha256-{'f' * 64}", "sha256-last")
    for name in names:
        (objects / name).mkdir()
        (objects / name / MANIFEST).write_bytes(b"half")
    make_old(tmp_path / "store")
    look = getattr(Location, moment)

    def look_too_late(place: Location) -> object:
        # Another prune takes two of the four.
        if any(name in place.path for name in names[:2]):
            shutil.rmtree(objects / place.path.partition("objects/")[2].partition("/")[0], ignore_errors=True)
        return look(place)

    monkeypatch.setattr(Location, moment, look_too_late)

    removed = dict(store.prune())

    assert {f"sha256-{'f' * 64}", "sha256-last"} <= removed.keys()
    assert not [path for path in objects.iterdir() if path.is_dir()]


def test_names_are_not_read_again_for_what_is_new(
    checkpoint: Path, store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, checkpoint, "stays")
    for name in ("sha256-one", "sha256-two"):
        (folder := next(tmp_path.rglob("objects")) / name).mkdir()
        (folder / MANIFEST).write_bytes(b"half")
    read, look_up = list[str](), CheckpointStore.look_up

    def count(store: CheckpointStore, name: str) -> StoredName:
        read.append(name)
        return look_up(store, name)

    monkeypatch.setattr(CheckpointStore, "look_up", count)

    assert list(store.prune()) == []
    assert read == ["stays"]


def test_a_name_that_goes_while_names_are_read_does_not_stop_pruning(
    checkpoint: Path, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, checkpoint, "stays")
    monkeypatch.setattr(CheckpointStore, "names", lambda _: ("gone", "stays"))

    assert list(store.prune(grace_s=0.0)) == []
