"""What is stored is found by its digest and by its names, and damage to it shows."""

from __future__ import annotations

import errno
import json
import re
import resource
from pathlib import Path

import pytest

from ensemble.checkpoints import load_checkpoint, resolve_checkpoint
from ensemble.checkpoints.check_reference import check_reference
from ensemble.checkpoints.digest import compute_digest, resolve_pinned
from ensemble.checkpoints.measure import measure_checkpoint
from ensemble.checkpoints.reference import StoreReference, parse_stored
from ensemble.checkpoints.store import CheckpointStore
from ensemble.checkpoints.store_listing import list_models
from ensemble.checkpoints.store_manifest import MANIFEST
from ensemble.checkpoints.store_pin import pin_stored
from ensemble.errors import CheckpointError, ConfigError
from tests.checkpoints.stores import files_in, object_files, put, url_of


def test_a_stored_checkpoint_is_loaded_by_its_name_and_its_digest(
    checkpoint: Path, store: CheckpointStore, url: str, tmp_path: Path
) -> None:
    digest = put(store, checkpoint, "tiny")

    folders = [
        load_checkpoint(reference, dtype="float32", device="cpu", cache_dir=tmp_path / "cache").folder
        for reference in (f"store:tiny@{url}", f"store:{digest}@{url}")
    ]

    assert folders[0] == folders[1]
    stored = files_in(folders[0])
    stored.pop(MANIFEST)
    assert stored == {name: content for name, content in files_in(checkpoint).items() if name != "training_args.bin"}


def test_the_address_is_the_digest_that_a_spec_pins(
    checkpoint: Path, store: CheckpointStore, url: str, tmp_path: Path
) -> None:
    digest = put(store, checkpoint, "tiny")

    assert digest == compute_digest(str(checkpoint))
    assert digest == compute_digest(f"store:tiny@{url}", cache_dir=tmp_path / "cache")
    assert resolve_pinned([f"store:tiny@{url}"], digest, cache_dir=tmp_path / "cache")
    assert pin_stored(f"store:tiny@{url}") == f"store:{digest}@{url}"


def test_a_remote_checkpoint_is_fetched_once_and_then_served_without_its_store(
    checkpoint: Path, tmp_path: Path
) -> None:
    url, phases = url_of("remote", tmp_path / "store"), list[str]()
    digest = put(CheckpointStore.at(url), checkpoint, "tiny")
    reference, cache_dir = f"store:{digest}@{url}", tmp_path / "cache"

    resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=lambda name, _share: phases.append(name))
    assert "fetch from the store" in phases
    phases.clear()
    resolve_checkpoint(f"store:tiny@{url}", cache_dir=cache_dir, on_phase=lambda name, _share: phases.append(name))
    (tmp_path / "store").rename(tmp_path / "out of reach")

    assert resolve_checkpoint(reference, cache_dir=cache_dir).is_dir()
    assert phases == []
    assert [path.name for path in (cache_dir / "fetched").iterdir() if path.is_dir()] == [digest.replace(":", "-")]


def test_a_store_on_this_machine_is_used_where_it_lies_and_read_through_once(checkpoint: Path, tmp_path: Path) -> None:
    url, phases = url_of("disk", tmp_path / "store"), list[str]()
    digest = put(CheckpointStore.at(url), checkpoint, "tiny")

    folders = {
        resolve_checkpoint(
            f"store:tiny@{url}", cache_dir=tmp_path / "cache", on_phase=lambda name, _share: phases.append(name)
        )
        for _ in range(2)
    }

    assert folders == {tmp_path / "store" / "objects" / digest.replace(":", "-")}
    assert phases.count("check digest") == len(json.loads((folders.pop() / MANIFEST).read_text("utf-8"))["files"])


def test_a_name_is_not_given_twice_unless_that_is_meant(checkpoint: Path, other: Path, store: CheckpointStore) -> None:
    first, second = put(store, checkpoint, "tiny"), compute_digest(str(other))
    put(store, checkpoint, "tiny")

    with pytest.raises(CheckpointError, match=re.escape(f"it is {first} already, and this is {second}")):
        put(store, other, "tiny")
    assert store.look_up("tiny").digest == first
    with pytest.raises(CheckpointError, match=f"it is {first} already"):
        store.check_free("tiny", replace=False)

    assert put(store, other, "tiny", replace=True) == second
    assert store.look_up("tiny").digest == second


def test_a_name_that_is_not_there_is_told_with_those_that_are(
    checkpoint: Path, store: CheckpointStore, url: str
) -> None:
    with pytest.raises(CheckpointError, match="no such name; it has: none"):
        resolve_checkpoint(f"store:tiny@{url}")
    put(store, checkpoint, "tiny")

    with pytest.raises(CheckpointError, match="no such name; it has: tiny"):
        check_reference(f"store:tony@{url}")
    with pytest.raises(CheckpointError, match="no such name"):
        store.remove("tony")


def test_models_are_listed_with_what_their_records_tell(checkpoint: Path, other: Path, store: CheckpointStore) -> None:
    digest = put(store, checkpoint, "b")
    put(store, other, "a")
    store.object(digest).attach("evaluation.json", b'{"accuracy": 0.5}')

    first, second = list_models(store)

    assert (first.name, second.name) == ("a", "b")
    assert (second.digest, second.family, second.steps) == (digest, "tiny", ("prune_layers",))
    assert (second.perplexities, second.evaluation, second.problem) == ((10.0, 12.5), {"accuracy": 0.5}, "")
    assert second.num_bytes > (checkpoint / "model.safetensors").stat().st_size
    assert first.evaluation is None


def test_a_record_is_none_that_would_change_what_is_loaded(checkpoint: Path, store: CheckpointStore) -> None:
    place = store.object(put(store, checkpoint, "tiny"))

    for name in ("config.json", "tokenizer.model", "extra.safetensors", MANIFEST, "model.bin", ".hidden.json"):
        with pytest.raises(CheckpointError, match="no record"):
            place.attach(name, b"{}")


@pytest.mark.parametrize("damage", ["cut short", "other bytes", "absent", "a stranger", "no manifest", "of another"])
def test_a_damaged_object_is_refused_listed_as_damaged_and_mended_by_storing_again(
    damage: str, checkpoint: Path, store: CheckpointStore, url: str, tmp_path: Path
) -> None:
    digest = put(store, checkpoint, "tiny")
    weights, manifest = (
        next(path for path in object_files(tmp_path) if path.name == name) for name in ("model.safetensors", MANIFEST)
    )
    whole = weights.read_bytes()
    match damage:
        case "cut short":
            weights.write_bytes(whole[:-1])
        case "other bytes":
            weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        case "absent":
            weights.unlink()
        case "a stranger":
            (weights.parent / "tokenizer.model").write_bytes(b"")
        case "no manifest":
            manifest.unlink()
        case "of another":
            changed = json.loads(manifest.read_text("utf-8"))
            changed["files"].pop("generation_config.json")
            manifest.write_text(json.dumps(changed), "utf-8")

    with pytest.raises(CheckpointError, match=r"damaged|no whole checkpoint") as caught:
        resolve_checkpoint(f"store:tiny@{url}", cache_dir=tmp_path / "cache")
    assert digest in str(caught.value)
    assert not list((tmp_path / "cache").rglob("config.json"))
    (listed,) = list_models(store)
    assert bool(listed.problem) == (damage != "other bytes")

    put(store, checkpoint, "tiny")

    assert resolve_checkpoint(f"store:tiny@{url}", cache_dir=tmp_path / "cache").is_dir()
    assert not list_models(store)[0].problem


def test_a_manifest_cannot_lead_out_of_its_folder(checkpoint: Path, store: CheckpointStore, tmp_path: Path) -> None:
    put(store, checkpoint, "tiny")
    (manifest,) = (path for path in object_files(tmp_path) if path.name == MANIFEST)
    changed = json.loads(manifest.read_text("utf-8"))
    changed["files"]["../../x"] = changed["files"]["config.json"]
    manifest.write_text(json.dumps(changed), "utf-8")

    (listed,) = list_models(store)

    assert "damaged" in listed.problem


def test_a_stored_checkpoint_is_measured_where_it_lies_as_its_folder_is(
    checkpoint: Path, store: CheckpointStore, url: str, tmp_path: Path
) -> None:
    put(store, checkpoint, "tiny")
    cache_dir = tmp_path / "cache"

    measured = measure_checkpoint(f"store:tiny@{url}", cache_dir=cache_dir)

    assert measured == measure_checkpoint(str(checkpoint))
    assert not cache_dir.exists()


def test_a_full_disk_is_told_and_leaves_nothing_that_loads(checkpoint: Path, store: CheckpointStore, url: str) -> None:
    limit = (checkpoint / "model.safetensors").stat().st_size // 2
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(ConfigError, match=r"it cannot be written \(File too large\)"):
            put(store, checkpoint, "tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list_models(store) == ()
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        check_reference(f"store:{compute_digest(str(checkpoint))}@{url}")
    put(store, checkpoint, "tiny")
    assert not list_models(store)[0].problem


@pytest.mark.parametrize("is_stored", [False, True], ids=["a new object", "one that is there"])
def test_a_record_that_cannot_be_read_is_told_as_such_and_not_as_the_stores_disk(
    is_stored: bool,  # noqa: FBT001 - pytest gives it by name
    checkpoint: Path,
    store: CheckpointStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_stored:
        put(store, checkpoint, "tiny")
    record, read_bytes = checkpoint / "compression.json", Path.read_bytes

    # Rights do not keep root from reading.
    def refuse(path: Path) -> bytes:
        if path == record:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)

    with pytest.raises(CheckpointError) as caught:
        put(store, checkpoint, "tiny")

    assert str(caught.value).startswith(f"{record}: it cannot be read (Permission denied)")


def test_what_is_no_whole_checkpoint_is_not_stored(store: CheckpointStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        put(store, tmp_path / "empty", "tiny")

    assert store.names() == ()


def test_what_no_reference_could_say_is_no_name(checkpoint: Path, store: CheckpointStore, tmp_path: Path) -> None:
    for name in ("my recipe+1", "../x", "", ".x", "a/b", "x" * 128):
        with pytest.raises(CheckpointError, match="a name in a store is of letters"):
            put(store, checkpoint, name)

    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("store:a", StoreReference(url="/s", name="a")),
        ("store:a.b-c_d@gs://bucket/x@y", StoreReference(url="gs://bucket/x@y", name="a.b-c_d")),
        (f"store:sha256:{'0' * 64}", StoreReference(url="/s", digest=f"sha256:{'0' * 64}")),
    ],
)
def test_references_into_a_store_are_read_and_written_alike(reference: str, expected: StoreReference) -> None:
    parsed = parse_stored(reference, url="/s")

    assert parsed == expected
    assert parse_stored(str(parsed)) == expected


@pytest.mark.parametrize("reference", ["store:", "store:a/b", "store:../a", "store:sha256:12", "store:a@", "a"])
def test_what_is_no_reference_into_a_store_is_refused(reference: str) -> None:
    with pytest.raises(CheckpointError, match="neither a name in a store"):
        parse_stored(reference, url="/s")


def test_a_reference_that_does_not_say_which_store_is_refused() -> None:
    with pytest.raises(CheckpointError, match="does not say which store"):
        resolve_checkpoint("store:a")
