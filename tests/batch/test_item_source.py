"""Rows are read strictly, line by line, from JSON lines and Parquet alike."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ensemble.batch.item_source import LONGEST_LINE_BYTES, ItemSource, Reject, format_of, scan, shards_of
from ensemble.batch.items import BatchItem, repeatable
from ensemble.errors import ConfigError
from ensemble.files.location import Location
from ensemble.generation import GenerationParameters
from ensemble.router.config import LimitsConfig
from ensemble.router.request import ParameterOverrides

LIMITS = LimitsConfig(max_prompt_chars=50, max_choices=3, max_tokens=100)


def source_of(path: Path) -> ItemSource:
    return ItemSource(Location.of(str(path)), LIMITS)


def read_lines(folder: Path, *lines: str | bytes) -> list[BatchItem | Reject]:
    path = folder / "in.jsonl"
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return list(source_of(path).read())


def test_questions_and_prompts_are_read_with_the_options_that_they_bring(tmp_path: Path) -> None:
    items = read_lines(
        tmp_path,
        '{"id": "1", "prompt": "Red?", "choices": ["yes", "no"], "answer": 0}',
        '{"id": "2", "prompt": "Say it.", "max_tokens": 5, "stop": ["."], "seed": null}',
    )

    assert items == [
        BatchItem(item_id="1", prompt="Red?", choices=("yes", "no")),
        BatchItem(item_id="2", prompt="Say it.", parameters=ParameterOverrides(max_tokens=5, stop=(".",))),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "it is not JSON (Expecting value at column 1)"),
        ("[1]", "it is not a JSON object"),
        ("", "it is blank"),
        (b'{"id": "\xff"}', "it is not UTF-8 text"),
        ('{"prompt": "x"}', "it has no id"),
        ('{"id": "x"}', "it has no prompt"),
        ('{"id": 7, "prompt": "x"}', "its id is wrong: input should be a valid string"),
        ('{"id": "x", "prompt": " "}', "its prompt is blank"),
        ('{"id": "x", "id": "y", "prompt": "x"}', "its key 'id' stands twice"),
        ('{"id": "x", "prompt": "x", "choices": ["a"]}', "choices: there are 1"),
        ('{"id": "x", "prompt": "x", "choices": ["a", " a"]}', "choices[1]: it equals choices[0]"),
        ('{"id": "x", "prompt": "x", "max_tokens": 101}', "parameters.max_tokens: it is 101"),
        (
            f'{{"id": "x", "prompt": "x", "max_tokens": 1{"0" * 400}}}',
            "parameters.max_tokens: it is an integer of 1329 bits",
        ),
        (f'{{"id": "x", "prompt": "x", "seed": -1{"0" * 4_000}}}', "parameters.seed: it is an integer of 13288 bits"),
        (
            '{"id": "x", "prompt": "x", "choices": ["a", "b"], "seed": 1}',
            "it has choices and generation parameters; parameters are for prompts without choices",
        ),
        (f'{{"id": "x", "prompt": "{"x" * 51}"}}', "prompt: it has 51 characters"),
        ('{"id": "good", "prompt": "again"}', "its id 'good' stands on line 1 already"),
    ],
)
def test_a_line_that_cannot_be_used_is_told_with_its_number(tmp_path: Path, line: str | bytes, reason: str) -> None:
    items = read_lines(tmp_path, '{"id": "good", "prompt": "x"}', line)

    assert items[1:] == [Reject(line=2, reason=reason)]


def test_a_line_without_end_is_passed_over_without_being_held(tmp_path: Path) -> None:
    endless = b'{"id": "x", "prompt": "' + b"x" * (2 * LONGEST_LINE_BYTES) + b'"}'

    items = read_lines(tmp_path, endless, '{"id": "y", "prompt": "y"}')

    assert items == [
        Reject(line=1, reason=f"it is longer than {LONGEST_LINE_BYTES} bytes"),
        BatchItem(item_id="y", prompt="y"),
    ]


def test_parquet_says_the_same_as_json_lines(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "prompt": "Red?", "choices": ["yes", "no"], "max_tokens": None},
        {"id": "2", "prompt": "Say it.", "choices": None, "max_tokens": 5},
        {"id": "2", "prompt": "Again.", "choices": [], "max_tokens": None},
        {"id": None, "prompt": "x", "choices": None, "max_tokens": None},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")

    items = list(source_of(tmp_path / "in.parquet").read())

    assert items == read_lines(tmp_path, *map(json.dumps, rows))
    assert items[2:] == [
        Reject(line=3, reason="its id '2' stands on line 2 already"),
        Reject(line=4, reason="it has no id"),
    ]


def test_parquet_columns_that_are_not_asked_for_are_left_alone_whatever_they_hold(tmp_path: Path) -> None:
    no_text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    nested = pa.array([{"prompt": "another"}])
    table = pa.table({"note": no_text, "id": ["1"], "prompt": ["Red?"], "origin": nested})
    parquet.write_table(table, tmp_path / "in.parquet")

    assert list(source_of(tmp_path / "in.parquet").read()) == [BatchItem(item_id="1", prompt="Red?")]


def test_packed_lines_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b'{"id": "1", "prompt": "x"}\n'))

    assert list(source_of(tmp_path / "in.jsonl.gz").read()) == [BatchItem(item_id="1", prompt="x")]


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl.gz"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"x" * 1_000)[:20] if name.endswith("gz") else b"PAR1 but no more")

    with pytest.raises(ConfigError, match=f"{name}: it cannot be read"):
        list(source_of(tmp_path / name).read())


def test_a_file_that_is_not_there_or_of_no_known_kind_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it cannot be read"):
        list(source_of(tmp_path / "none.jsonl").read())
    with pytest.raises(ConfigError, match="its name does not say what it is"):
        source_of(tmp_path / "in.csv")
    with pytest.raises(ConfigError, match="its name does not say what it is"):
        format_of(Location.of(str(tmp_path / "out.jsonl.gz")))
    with pytest.raises(ConfigError, match="it names no store"):
        Location.of("nostore://x/y.jsonl")


def test_a_scan_names_what_the_usable_items_say_and_refuses_a_file_without_any(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "1", "prompt": "x"}\nnonsense\n{"id": "2", "prompt": "y"}\n', "utf-8")
    rejects: list[Reject] = []

    found = scan(source_of(path), shard_items=2, on_reject=rejects.append)

    assert (found.num_items, found.num_rejects, [one.line for one in rejects]) == (2, 1, [2])
    path.write_text('{"id":"1","prompt":"x"}\n{"id":"2","prompt":"y"}\n', "utf-8")
    assert scan(source_of(path), shard_items=2, on_reject=rejects.append).digest == found.digest
    path.write_text('{"id": "1", "prompt": "x"}\n{"id": "2", "prompt": "z"}\n', "utf-8")
    assert scan(source_of(path), shard_items=2, on_reject=rejects.append).digest != found.digest
    path.write_text("nonsense\n", "utf-8")
    with pytest.raises(ConfigError, match=r"no line can be used \(line 1: it is not JSON"):
        scan(source_of(path), shard_items=2, on_reject=rejects.append)


def write_prompts(path: Path, *prompts: str) -> None:
    rows = (json.dumps({"id": str(n), "prompt": prompt}) for n, prompt in enumerate(prompts))
    path.write_text("".join(f"{row}\n" for row in rows), "utf-8")


def test_shards_are_cut_in_order(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    write_prompts(path, *"abcde")
    found = scan(source_of(path), shard_items=2, on_reject=lambda _reject: None)

    shards = list(shards_of(source_of(path), shard_items=2, shard_digests=found.shard_digests))

    assert [[item.item_id for item in shard] for shard in shards] == [["0", "1"], ["2", "3"], ["4"]]


@pytest.mark.parametrize(
    ("now", "num_whole"), [("abcdx", 2), ("abxde", 1), ("abcdef", 2), ("abcd", 2), ("abc", 1), ("abcdefg", 2)]
)
def test_no_shard_of_a_file_that_changed_meanwhile_is_given(tmp_path: Path, now: str, num_whole: int) -> None:
    path = tmp_path / "in.jsonl"
    write_prompts(path, *"abcde")
    found = scan(source_of(path), shard_items=2, on_reject=lambda _reject: None)
    write_prompts(path, *now)
    given: list[tuple[BatchItem, ...]] = []

    with pytest.raises(ConfigError, match="it changed while it was read"):
        given.extend(shards_of(source_of(path), shard_items=2, shard_digests=found.shard_digests))

    assert [len(shard) for shard in given] == [2] * num_whole


def test_a_draw_at_random_gets_a_seed_of_the_items_id_and_nothing_else_does() -> None:
    drawn = GenerationParameters(temperature=0.8)
    item, other = BatchItem(item_id="1", prompt="x"), BatchItem(item_id="2", prompt="x")

    seeds = {one.item_id: repeatable(one, drawn).parameters.seed for one in (item, other, item)}

    assert None not in seeds.values()
    assert seeds["1"] != seeds["2"]
    assert repeatable(item, GenerationParameters()) == item
    assert repeatable(item, GenerationParameters(temperature=0.8, seed=7)) == item
    own = BatchItem(item_id="1", prompt="x", parameters=ParameterOverrides(temperature=0.0))
    assert repeatable(own, drawn) == own
