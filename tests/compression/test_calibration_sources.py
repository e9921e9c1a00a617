"""Text files, JSON lines and data sets to calibrate with, and what is wrong with those that cannot be."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from ensemble.compression.calibration_sources import MAX_CHARACTERS, load_calibration_sources
from ensemble.compression.data_set_text import DataSetName, names_data_set, parse_data_set_name
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_data_sets(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("data-sets"))


def write_lines(path: Path, *rows: object) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return str(path)


def test_lines_of_json_give_their_text_or_their_prompt_and_never_an_answer(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "items.jsonl",
        {"text": "A sentence.", "source": "somewhere"},
        {"id": "1", "prompt": "What is brown?", "choices": ["bears", "grass"], "answer": 0},
        {"id": "2", "prompt": "Say it again,", "target": "Sam"},
        {"text": "  "},
    )

    (source,) = load_calibration_sources([path])

    assert source.text == "A sentence.\n\nWhat is brown?\n\nSay it again,"
    assert source.name == "items.jsonl"


def test_sources_keep_their_order_and_their_own_digests(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.txt").write_text("second")

    sources = load_calibration_sources([tmp_path / "b.txt", tmp_path / "a.txt"])

    assert [source.text for source in sources] == ["second", "first"]
    assert len({source.digest for source in sources}) == 2


def test_of_a_long_file_the_beginning_is_read(tmp_path: Path) -> None:
    lines = tmp_path / "long.jsonl"
    line = json.dumps({"text": "x" * 2**20})
    lines.write_text(f"{line}\n" * 18)
    text = tmp_path / "long.txt"
    text.write_text("y" * (MAX_CHARACTERS + 1))

    sources = load_calibration_sources([lines, text])

    assert [len(source.text) for source in sources] == [MAX_CHARACTERS, MAX_CHARACTERS]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("empty.txt", b"", "empty.txt: it holds no text"),
        ("blank.txt", b" \n\t\n", "it holds no text"),
        ("latin.txt", b"caf\xe9", "the calibration text cannot be read"),
        ("empty.jsonl", b"", "it holds no text"),
        ("blank.jsonl", b'{"text": " "}\n', "it holds no text"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": \n', r"broken.jsonl:2: it is not JSON"),
        ("array.json", b'[\n  {"text": "a"}\n]\n', r"array.json:1: the file is a JSON array, not JSON lines"),
        ("list.jsonl", b'{"text": "a"}\n["text"]\n', r"list.jsonl:2: it is not a JSON object"),
        ("other.jsonl", b'{"text": "a"}\n{"body": "b"}\n', r"other.jsonl:2: it has no text under text or prompt"),
        ("number.jsonl", b'{"text": 3}\n', "it has no text under"),
    ],
)
def test_what_holds_no_text_is_told_with_its_place(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=problem):
        load_calibration_sources([path])


@pytest.mark.parametrize("name", ["{folder}/none.txt", "data/items.jsonl", "./items", "../items", "~/items", "items"])
def test_an_absent_file_is_told_as_such(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="there is no such file; check the path, or write dataset:"):
        load_calibration_sources([name.format(folder=tmp_path)])


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is a folder"):
        load_calibration_sources([tmp_path])


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("org/name", DataSetName(path="org/name", config=None, revision=None, split="train")),
        ("org/name:raw#test", DataSetName(path="org/name", config="raw", revision=None, split="test")),
        ("org/name@1a2b#train[:5%]", DataSetName(path="org/name", config=None, revision="1a2b", split="train[:5%]")),
        ("some/folder", DataSetName(path="some/folder", config=None, revision=None, split="train")),
    ],
)
def test_a_data_set_is_named_with_its_config_revision_and_split(name: str, parsed: DataSetName) -> None:
    assert parse_data_set_name(name) == parsed


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("org/name", True),
        ("org/name:raw", True),
        ("org/text-2.0", True),
        ("org/text.jsonl:raw", False),
        ("text.txt", False),
        ("data/text.txt", False),
        ("/data/text.txt", False),
        ("./name", False),
        ("a/b/c", False),
    ],
)
def test_only_what_could_be_on_the_hub_is_taken_for_a_data_set(name: str, is_one: bool) -> None:  # noqa: FBT001
    assert names_data_set(name) == is_one


def test_a_data_set_gives_its_texts_in_order(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_lines(tmp_path / "set" / "train.jsonl", *({"text": f"Row {number}.", "label": number} for number in range(3)))

    (source,) = load_calibration_sources([f"dataset:{tmp_path / 'set'}"])

    assert source.text == "Row 0.\n\nRow 1.\n\nRow 2."


@pytest.mark.parametrize(
    ("split", "row", "problem"),
    [
        ("#test", {"text": "a"}, r"it cannot be loaded \(Unknown split"),
        ("", {"body": "a", "label": 1}, "it has no column text or prompt, but body, label"),
    ],
)
def test_a_data_set_without_such_a_split_or_text_is_told(
    tmp_path: Path, split: str, row: dict[str, object], problem: str
) -> None:
    (tmp_path / "set").mkdir()
    write_lines(tmp_path / "set" / "train.jsonl", row)

    with pytest.raises(ConfigError, match=problem):
        load_calibration_sources([f"dataset:{tmp_path / 'set'}{split}"])


def test_a_data_set_out_of_reach_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(ConfigError, match=r"org/name: it cannot be loaded .*; check path and spelling"):
        load_calibration_sources(["org/name"])


def test_without_the_package_a_data_set_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(ConfigError, match=r"there is no such file, and data sets need a package .*datasets"):
        load_calibration_sources(["org/name"])
