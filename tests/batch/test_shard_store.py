"""Shards are whole or not there, and the output has every item once, in order, in the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import parquet

from ensemble.batch.answers import answer_from_decision, columns_of, no_answer
from ensemble.batch.shard_store import ShardStore, check_output, open_batch
from ensemble.errors import ConfigError
from ensemble.files.location import Location
from tests.batch.batches import build_decision, build_manifest, build_store


def write_all(store: ShardStore, shards: list[int]) -> None:
    for shard in shards:
        first = shard * store.manifest.shard_items
        ids = [f"q{first + place}" for place in range(store.manifest.num_items_of(shard))]
        store.write_shard(shard, [answer_from_decision(item_id, build_decision()) for item_id in ids])


def finish(store: ShardStore) -> list[str]:
    seen: list[str] = []
    store.finish(on_answer=lambda answer: seen.append(answer.columns["id"]), write_report=lambda: {"seen": len(seen)})
    return seen


def test_the_output_has_every_item_once_and_in_order_whatever_order_the_shards_came_in(tmp_path: Path) -> None:
    store = build_store(tmp_path, build_manifest(10))
    write_all(store, [2, 0, 1])

    seen = finish(store)

    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == seen == [f"q{n}" for n in range(10)]
    assert tuple(rows[0]) == store.manifest.columns
    assert store.is_finished()
    assert store.stored_report() == {"seen": 10}
    assert not (tmp_path / "out.jsonl.batch" / "shards").exists()


def test_parquet_has_the_same_rows_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    columns = columns_of((), stop_early=False, with_confidence=True, with_ballots=True)
    manifest = build_manifest(5, output_format="parquet", columns=columns)
    stores = [build_store(tmp_path, manifest, name=f"{name}.parquet") for name in ("one", "two")]
    for store, order in zip(stores, ([0, 1], [1, 0]), strict=True):
        write_all(store, order)
        finish(store)

    rows = parquet.read_table(tmp_path / "one.parquet").to_pylist()

    assert [row["id"] for row in rows] == [f"q{n}" for n in range(5)]
    assert rows[0]["ballots"] == [{"member": "a", "answer": "red"}, {"member": "b", "answer": "red"}]
    assert rows[0]["confidence"] is None
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_an_item_that_every_member_declines_has_a_row_without_an_answer(tmp_path: Path) -> None:
    store = build_store(tmp_path, build_manifest(1))
    store.write_shard(0, [no_answer("q0", {"a": "refusal"})])

    finish(store)

    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert row["answer"] is None
    assert row["abstentions"] == [{"member": "a", "reason": "refusal"}]


@pytest.mark.parametrize("damage", ["cut", "changed", "of another run", "of another shard"])
def test_a_damaged_shard_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    store = build_store(tmp_path, build_manifest(8))
    write_all(store, [0, 1])
    shards = tmp_path / "out.jsonl.batch" / "shards"
    second = shards / "00000001.jsonl"
    match damage:
        case "cut":
            second.write_bytes(second.read_bytes()[:-20])
        case "changed":
            second.write_bytes(second.read_bytes().replace(b"q5", b"q9"))
        case "of another run":
            other = build_store(tmp_path, build_manifest(8, ensemble="other"), name="other.jsonl")
            write_all(other, [1])
            second.write_bytes((tmp_path / "other.jsonl.batch" / "shards" / "00000001.jsonl").read_bytes())
        case _:
            second.write_bytes((shards / "00000000.jsonl").read_bytes())

    with pytest.raises(ConfigError, match=r"00000001\.jsonl: it is damaged, or of another run"):
        finish(store)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_that_another_wrote_is_refused(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out.jsonl"))
    (tmp_path / "out.jsonl").write_text("precious", "utf-8")

    with pytest.raises(ConfigError, match="it exists, and this batch did not write it"):
        check_output(output)
    with open_batch(output, build_manifest(1)) as store, pytest.raises(ConfigError, match="it exists"):
        store.is_finished()
    assert (tmp_path / "out.jsonl").read_text("utf-8") == "precious"


def test_an_output_that_was_changed_after_the_batch_is_refused_and_one_that_was_removed_is_made_anew(
    tmp_path: Path,
) -> None:
    store = build_store(tmp_path, build_manifest(4))
    write_all(store, [0])
    finish(store)
    (tmp_path / "out.jsonl").write_text("changed", "utf-8")

    with pytest.raises(ConfigError, match="it exists, and this batch did not write it"):
        store.is_finished()
    (tmp_path / "out.jsonl").unlink()
    assert not store.is_finished()
    assert store.stored() == frozenset()


def test_a_batch_that_answered_nothing_makes_room_for_one_of_other_facts(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out.jsonl"))
    with open_batch(output, build_manifest(4)):
        pass

    with open_batch(output, build_manifest(4, input_digest="2" * 64)) as store:
        write_all(store, [0])
        finish(store)

    assert store.is_finished()


def test_a_batch_of_other_facts_is_refused_and_the_difference_told(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out.jsonl"))
    with open_batch(output, build_manifest(4)) as store:
        write_all(store, [0])

    with (
        pytest.raises(ConfigError, match="shard_items was 4 and is 5") as told,
        open_batch(output, build_manifest(4, shard_items=5, input_digest="2" * 64)),
    ):
        pass

    assert "input_digest was 000000000000 and is 222222222222" in str(told.value)


@pytest.mark.parametrize("name", ["done.json", "report.json"])
def test_a_damaged_end_of_a_batch_is_refused_by_name(tmp_path: Path, name: str) -> None:
    store = build_store(tmp_path, build_manifest(1))
    write_all(store, [0])
    finish(store)
    (tmp_path / "out.jsonl.batch" / name).write_text("{", "utf-8")

    with pytest.raises(ConfigError, match=rf"{name}: it is damaged"):
        _ = store.is_finished() and store.stored_report()


def test_what_kills_left_behind_goes_and_strangers_files_stay(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out.jsonl"))
    with open_batch(output, build_manifest(4)) as store:
        write_all(store, [0])
        finish(store)
        (tmp_path / "out.jsonl.batch" / "shards").mkdir()
    for name in (".out.jsonl.123", ".out.jsonl.mine", ".other.jsonl.123"):
        (tmp_path / name).touch()

    with open_batch(output, build_manifest(4)) as store:
        assert store.is_finished()

    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".other.jsonl.123", ".out.jsonl.mine", "out.jsonl", "out.jsonl.batch"]
    assert not (tmp_path / "out.jsonl.batch" / "shards").exists()


def test_two_processes_never_work_on_one_batch(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out.jsonl"))

    with (
        open_batch(output, build_manifest(4)),
        pytest.raises(ConfigError, match="another process works on this batch"),
        open_batch(output, build_manifest(4)),
    ):
        pass


def test_a_store_elsewhere_is_written_as_a_disk_is(tmp_path: Path) -> None:
    far, near = Location.of("memory://batches/out.jsonl"), build_store(tmp_path, build_manifest(6))
    write_all(near, [0, 1])
    finish(near)

    with open_batch(far, build_manifest(6)) as store:
        write_all(store, [1])
        assert store.stored() == {1}
        write_all(store, [0])
        finish(store)
        assert store.is_finished()

    assert far.read() == (tmp_path / "out.jsonl").read_bytes()
    assert far.filesystem.ls("/batches", detail=False) == ["/batches/out.jsonl", "/batches/out.jsonl.batch"]


def test_missing_votes_may_be_accepted_later_and_then_stay_accepted(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out.jsonl"))
    with open_batch(output, build_manifest(8)) as store:
        write_all(store, [0])

    with open_batch(output, build_manifest(8, accept_missing=True)) as store:
        write_all(store, [1])
        assert finish(store) == [f"q{n}" for n in range(8)]
    with (
        pytest.raises(ConfigError, match="accept_missing was True and is False"),
        open_batch(output, build_manifest(8)),
    ):
        pass


def test_two_processes_that_nothing_keeps_apart_both_end_well() -> None:
    far = Location.of("memory://twice/out.jsonl")
    with open_batch(far, build_manifest(6)) as one, open_batch(far, build_manifest(6)) as other:
        write_all(one, [0, 1])
        assert not other.is_finished()
        finish(one)

        finish(other)

        assert other.is_finished()
        assert other.stored_report() == {"seen": 6}


def test_a_refused_command_leaves_a_finished_batch_as_it_was(tmp_path: Path) -> None:
    output = Location.of(str(tmp_path / "out.jsonl"))
    with open_batch(output, build_manifest(4)) as store:
        write_all(store, [0])
        finish(store)
    files = sorted((tmp_path / "out.jsonl.batch").iterdir())

    with pytest.raises(ConfigError, match="num_items was 4 and is 5"), open_batch(output, build_manifest(5)):
        pass

    assert sorted((tmp_path / "out.jsonl.batch").iterdir()) == files


def test_a_report_that_was_taken_away_is_told_with_what_brings_it_back(tmp_path: Path) -> None:
    store = build_store(tmp_path, build_manifest(4))
    write_all(store, [0])
    finish(store)
    (tmp_path / "out.jsonl.batch" / "report.json").unlink()

    with pytest.raises(ConfigError, match=r"report\.json: it is not there; put it back, or remove OUTPUT"):
        store.stored_report()
    (tmp_path / "out.jsonl").unlink()
    assert not store.is_finished()
