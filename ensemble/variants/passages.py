"""A text in passages that every model reads alike, whatever its tokens are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ensemble.errors import ConfigError

PASSAGE_CHARACTERS = 800
MIN_PASSAGES = 4
"""Fewer say nothing about how far a figure may be off."""
MAX_PASSAGES = 64
_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingText:
    """A text to judge models by, cut into passages; ``digest`` is the whole text's SHA-256, as compressions note it."""

    passages: tuple[str, ...]
    digest: str
    is_own: bool
    """Whether it is the text that comes with the package, which no recipe sees."""


def load_judging_text(paths: Sequence[Path] = (), *, max_passages: int = MAX_PASSAGES) -> JudgingText:
    """Read UTF-8 files as one text; without files, take the one that comes with the package.

    Raises:
        ConfigError: a file cannot be read, or there is too little text.
    """
    text = "\n\n".join(map(_read, paths)) or files("ensemble.variants").joinpath("held_out.txt").read_text("utf-8")
    passages = cut_passages(text)
    if len(passages) < MIN_PASSAGES:
        least = MIN_PASSAGES * PASSAGE_CHARACTERS
        raise ConfigError("--text", f"it has {len(text)} characters, and some {least} are needed", "give more text")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return JudgingText(passages=passages[:max_passages], digest=digest, is_own=not paths)


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


def _read(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"the text cannot be read ({error})", "give UTF-8 text") from error
    if not text.strip():
        raise ConfigError(str(path), "it is empty", "give UTF-8 text")
    return text
