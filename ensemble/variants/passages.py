"""A text in passages that every model reads alike, whatever its tokens are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ensemble.compression.calibration_sources import CalibrationSource, load_calibration_sources
from ensemble.errors import ConfigError

PASSAGE_CHARACTERS = 800
MIN_PASSAGES = 4
"""Fewer say nothing about how far a figure may be off."""
MAX_PASSAGES = 64
OWN_TEXT = "the package's own text to judge by"
_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingText:
    """A text to judge models by, cut into passages; the digests are its sources', as compressions note them."""

    passages: tuple[str, ...]
    digests: tuple[str, ...]
    name: str


def load_judging_text(sources: Sequence[str | Path] = (), *, max_passages: int = MAX_PASSAGES) -> JudgingText:
    """Read text files, JSON lines or data sets; without any, the text that comes with the package for no other use.

    Of longer texts, passages are taken evenly.

    Raises:
        ConfigError: a source cannot be read, or there is too little text.
    """
    if sources:
        read = load_calibration_sources(sources)
    else:
        own = files("ensemble.variants").joinpath("held_out.txt").read_text("utf-8")
        read = (CalibrationSource(name=OWN_TEXT, text=own),)
    passages = [passage for source in read for passage in cut_passages(source.text)]
    if len(passages) < MIN_PASSAGES:
        num_characters = sum(len(source.text) for source in read)
        least = MIN_PASSAGES * PASSAGE_CHARACTERS
        problem = f"it has {num_characters} characters, and more than {least} are needed"
        raise ConfigError("the text to judge by", problem, "give more text")
    step = max(1.0, len(passages) / max_passages)
    return JudgingText(
        passages=tuple(passages[int(number * step)] for number in range(min(len(passages), max_passages))),
        digests=tuple(source.digest for source in read),
        name=", ".join(source.name for source in read),
    )


def cut_passages(text: str) -> tuple[str, ...]:
    """Cut a text at the ends of words into passages of some PASSAGE_CHARACTERS; what is left at the end is dropped."""
    passages, start, end = [], 0, 0
    for word in _WORD.finditer(text):
        if word.end() - start > PASSAGE_CHARACTERS and end > start:
            passages.append(text[start:end].lstrip())
            start = end
        end = word.end()
    return tuple(passages)


def word_ends(passage: str) -> list[int]:
    """Give where each word of a passage ends; the space before a word belongs to it."""
    return [word.end() for word in _WORD.finditer(passage)]
