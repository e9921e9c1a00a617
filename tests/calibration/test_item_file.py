"""Items that could not be judged are refused with their line; the others are read as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ensemble.calibration.item_file import (
    MAX_TOLD,
    check_item_files,
    item_from_json,
    item_to_json,
    read_item_file,
    without_problems,
)
from ensemble.calibration.items import LabelledItem
from ensemble.errors import ConfigError, InvalidRequestError

GOOD = '{"id": "1", "prompt": "Which?", "choices": ["cat", "dog"], "answer": 1}'


def write(folder: Path, *lines: str, name: str = "set.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def test_items_with_choices_are_read_in_the_files_order(tmp_path: Path) -> None:
    other = '{"id": "0", "prompt": "P", "choices": ["x", "y", "z"], "answer": 0, "source": "elsewhere"}'

    file = read_item_file(write(tmp_path, GOOD, other))

    assert file.problems == ()
    assert file.item_set.name == "set"
    assert file.item_set.items == (
        LabelledItem(item_id="1", prompt="Which?", choices=("cat", "dog"), answer=1),
        LabelledItem(item_id="0", prompt="P", choices=("x", "y", "z"), answer=0),
    )


@pytest.mark.parametrize("key", ["reference", "target"])
def test_a_right_text_goes_by_two_names(key: str, tmp_path: Path) -> None:
    file = read_item_file(write(tmp_path, json.dumps({"id": "1", "prompt": "Say it.", key: "It."})))

    assert file.item_set.items == (LabelledItem(item_id="1", prompt="Say it.", reference="It."),)


@pytest.mark.parametrize("text", [f"[{GOOD}]", f"[\n  {GOOD},\n  {GOOD}\n]\n"])
def test_an_array_is_refused_as_a_whole(text: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(text, "utf-8")

    with pytest.raises(ConfigError, match=r"set\.json: the file is a JSON array, not JSON lines"):
        read_item_file(path)


def test_a_line_without_an_id_is_named_by_its_number(tmp_path: Path) -> None:
    bare = '{"prompt": "P", "choices": ["x", "y"], "answer": 0}'

    file = read_item_file(write(tmp_path, GOOD, bare, "{", bare.replace('"P"', '"Q"')))

    assert [item.item_id for item in file.item_set.items] == ["1", "line-2", "line-4"]


def test_a_given_id_that_a_lines_number_takes_is_refused(tmp_path: Path) -> None:
    bare = '{"prompt": "P", "choices": ["x", "y"], "answer": 0}'

    file = read_item_file(write(tmp_path, GOOD.replace('"1"', '"line-2"'), bare))

    assert [one.problem for one in file.problems] == ["its id 'line-2' stands on line 1 already"]


def test_the_digest_is_of_what_items_say_and_not_of_how_they_are_written(tmp_path: Path) -> None:
    respaced = '{"answer":1,"choices":["cat","dog"],"prompt":"Which?","id":"1","more":0}'
    changed = GOOD.replace('"answer": 1', '"answer": 0')

    digests = [
        read_item_file(write(tmp_path, line, name=f"{n}.jsonl")).item_set.digest
        for n, line in enumerate((GOOD, respaced, changed))
    ]

    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "it is blank"),
        ("{", "it is not JSON (Expecting property name enclosed in double quotes at column 2)"),
        ("[1]", "it is not a JSON object"),
        ('{"id": "2", "prompt": "P"}', "it has neither choices with an answer nor a reference"),
        ('{"id": "2", "prompt": "P", "choices": ["x", "y"]}', "it has no answer"),
        ('{"id": "2", "prompt": "P", "choices": ["x"], "answer": 0}', "it has one choice; two or more make a question"),
        (
            '{"id": "2", "prompt": "P", "choices": ["x", "y"], "answer": 2}',
            "its answer is 2, but choices go from 0 to 1",
        ),
        (
            '{"id": "2", "prompt": "P", "choices": ["x", "y"], "answer": -1}',
            "its answer is -1, but choices go from 0 to 1",
        ),
        (
            '{"id": "2", "prompt": "P", "choices": ["x", "y"], "answer": "y"}',
            "its answer is wrong: input should be a valid integer",
        ),
        (
            '{"id": "2", "prompt": "P", "choices": ["x", "y"], "answer": true}',
            "its answer is wrong: input should be a valid integer",
        ),
        (
            '{"id": "2", "prompt": "P", "choices": ["x", 2], "answer": 0}',
            "its choices[1] is wrong: input should be a valid string",
        ),
        ('{"id": "2", "prompt": "P", "choices": ["x", " "], "answer": 0}', "its choices[1] is blank"),
        (
            '{"id": "2", "prompt": "P", "choices": ["The cat.", "dog", "cat"], "answer": 0}',
            "choices[0] 'The cat.' and choices[2] 'cat' are the same once normalised",
        ),
        ('{"id": "1", "prompt": "P", "choices": ["x", "y"], "answer": 0}', "its id '1' stands on line 1 already"),
        (
            '{"id": 2, "prompt": "P", "choices": ["x", "y"], "answer": 0}',
            "its id is wrong: input should be a valid string",
        ),
        ('{"id": " ", "prompt": "P", "choices": ["x", "y"], "answer": 0}', "its id is blank"),
        ('{"id": "2", "prompt": "  ", "choices": ["x", "y"], "answer": 0}', "its prompt is blank"),
        ('{"id": "2", "id": "3", "prompt": "P", "choices": ["x", "y"], "answer": 0}', "its key 'id' stands twice"),
        ('{"id": "2", "prompt": "P", "reference": "x"}', "its kind differs from the first item's, which has choices"),
        (
            '{"id": "2", "prompt": "P", "reference": "x", "target": "x"}',
            "it has both a reference and a target, which mean the same",
        ),
        (
            '{"id": "2", "prompt": "P", "choices": ["x", "y"], "answer": 0, "reference": "x"}',
            "it has both choices and a reference; give one of them",
        ),
        (GOOD.replace('"1"', '"2"'), "its question stands on line 1 already"),
        (
            '{"id": "2", "prompt": "\\ud800", "choices": ["x", "y"], "answer": 0}',
            "its prompt has half a character (a lone surrogate), which no message can carry",
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_told_with_its_place(line: str, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, line, GOOD.replace('"1"', '"9"').replace("Which", "What"))

    file = read_item_file(path)

    assert [str(one) for one in file.problems] == [f"{path}:2: {problem}"]
    assert [item.item_id for item in file.item_set.items] == ["1", "9"]


def test_a_byte_order_mark_and_other_encodings_are_refused(tmp_path: Path) -> None:
    marked, latin = tmp_path / "marked.jsonl", tmp_path / "latin.jsonl"
    marked.write_text(GOOD, "utf-8-sig")
    latin.write_bytes(GOOD.replace("cat", "chât").encode("latin-1"))

    problems = [read_item_file(path).problems[0].problem for path in (marked, latin)]

    assert problems == [
        "the file begins with a byte order mark; save it as UTF-8 without one",
        "it is not UTF-8 text",
    ]


def test_an_empty_file_and_an_absent_one_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()

    with pytest.raises(ConfigError, match=r"1 of 1 lines cannot be used: .*the file is empty"):
        check_item_files([read_item_file(empty)])
    with pytest.raises(ConfigError, match="No such file"):
        read_item_file(tmp_path / "absent.jsonl")


def test_what_the_ensemble_would_refuse_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    def check(item: LabelledItem) -> None:
        if len(item.prompt) > 5:
            raise InvalidRequestError("prompt", f"it has {len(item.prompt)} characters", "send at most 5")

    file = read_item_file(write(tmp_path, GOOD), check=check)

    assert [one.problem for one in file.problems] == ["prompt: it has 6 characters"]


def test_the_first_problems_are_told_and_the_rest_counted(tmp_path: Path) -> None:
    file = read_item_file(write(tmp_path, GOOD, *["{}"] * (MAX_TOLD + 3)))

    with pytest.raises(ConfigError) as caught:
        check_item_files([file])

    assert caught.value.problem.startswith(f"{MAX_TOLD + 3} of {MAX_TOLD + 4} lines cannot be used: ")
    assert caught.value.problem.count("set.jsonl:") == MAX_TOLD
    assert caught.value.problem.endswith("; and 3 more")


def test_bad_lines_can_be_left_out_unless_nothing_is_left(tmp_path: Path) -> None:
    some = read_item_file(write(tmp_path, GOOD, "{}"))
    none = read_item_file(write(tmp_path, "{}", name="none.jsonl"))

    (left,) = check_item_files([without_problems(some)])

    assert len(left.items) == 1
    with pytest.raises(ConfigError, match="1 of 1 lines cannot be used"):
        check_item_files([without_problems(none)])


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [read_item_file(write(folder, GOOD)) for folder in (tmp_path, tmp_path / "other")]

    with pytest.raises(ConfigError, match="two files make a set named 'set'"):
        check_item_files(files)


@pytest.mark.parametrize(
    "item",
    [
        LabelledItem(item_id="1", prompt="\u2028 é", choices=("a", "b\nc"), answer=1),
        LabelledItem(item_id="2", prompt="P", reference='"quoted"'),
    ],
)
def test_an_item_is_written_in_one_line_and_read_back(item: LabelledItem) -> None:
    text = item_to_json(item)

    assert "\n" not in text
    assert item_from_json(text) == item


def test_a_stored_item_without_an_id_is_none() -> None:
    with pytest.raises(ValueError, match="it has no id"):
        item_from_json('{"prompt": "P", "reference": "R"}')
