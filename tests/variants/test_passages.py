"""Texts are cut alike for every model, and too little text is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.compression.calibration_sources import load_calibration_sources, read_own_text
from ensemble.errors import ConfigError
from ensemble.variants.passages import PASSAGE_CHARACTERS, cut_passages, load_judging_text, word_ends


def test_passages_are_whole_words_in_order_and_no_longer_than_they_may_be() -> None:
    text = " ".join(f"word{number}" for number in range(2000))

    passages = cut_passages(text)

    assert text.startswith(" ".join(passages))
    assert all(PASSAGE_CHARACTERS - 10 < len(passage) <= PASSAGE_CHARACTERS for passage in passages)


def test_a_word_longer_than_a_passage_makes_one_of_its_own() -> None:
    long_word = "x" * (2 * PASSAGE_CHARACTERS)

    passages = cut_passages(f"a b {long_word} c d")

    assert passages == ("a b", long_word)


def test_the_space_before_a_word_is_the_words() -> None:
    assert word_ends("An  old\nman") == [2, 7, 11]


def test_the_packages_text_has_no_passage_of_the_calibration_text() -> None:
    own = load_judging_text()

    calibration = read_own_text()
    assert len(own.passages) >= 10
    sentences = [part for passage in own.passages for part in passage.split(". ") if len(part) > 30]
    assert not [sentence for sentence in sentences if sentence in calibration]


def test_digests_are_those_that_a_compression_notes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("one two " * 300)
    second.write_text("three four " * 300)

    text = load_judging_text([first, second])

    assert text.digests == tuple(source.digest for source in load_calibration_sources([first, second]))
    assert text.name == "a.txt, b.txt"


def test_a_long_text_is_judged_by_passages_from_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(" ".join(f"word{number}" for number in range(20_000)))
    whole = cut_passages(path.read_text())

    text = load_judging_text([path], max_passages=10)

    assert len(text.passages) == 10
    assert text.passages[0] == whole[0]
    assert 0.8 * len(whole) < whole.index(text.passages[-1]) < len(whole)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"too short", "characters, and more than"), (b" \n", "it holds no text"), (b"\xff\xfe", "cannot be read")],
)
def test_text_that_cannot_judge_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=problem):
        load_judging_text([path])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_judging_text([tmp_path / "nowhere.txt"])
