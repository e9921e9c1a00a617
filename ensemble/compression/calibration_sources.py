"""Where text to calibrate with comes from: text files, JSON lines, data sets by name, or what the package brings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble.compression.data_set_text import DATA_SET_PREFIX, TEXT_FIELDS, names_data_set, read_data_set
from ensemble.errors import ConfigError
from ensemble.files.json_line import parse_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_CHARACTERS = 1 << 24
"""Of each source, so much of its beginning is read: many times what is measured on, and tokenised in seconds."""
_LINE_SUFFIXES = (".jsonl", ".ndjson", ".json")
_OWN_TEXT = "the package's own text"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSource:
    """The text of one source."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text that was read, in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_calibration_sources(names: Sequence[str | Path]) -> tuple[CalibrationSource, ...]:
    """Read text files, files of JSON lines and data sets; without any, the short English text of the package.

    A line of JSON has its text under ``text`` or ``prompt``. What is no path is a data set's name.

    Raises:
        ConfigError: one is not there, cannot be read, or holds no text.
    """
    if not names:
        return (CalibrationSource(name=_OWN_TEXT, text=read_own_text()),)
    return tuple(_load_source(str(name)) for name in names)


def read_own_text() -> str:
    """Give the short English text that comes with the package."""
    return files("ensemble.compression").joinpath("calibration.txt").read_text("utf-8")


def _load_source(name: str) -> CalibrationSource:
    path = Path(name).expanduser()
    if name.startswith(DATA_SET_PREFIX) or (not path.exists() and names_data_set(name)):
        return _join(name, read_data_set(name.removeprefix(DATA_SET_PREFIX)))
    if not path.exists():
        raise ConfigError(
            name, "there is no such file", f"check the path, or write {DATA_SET_PREFIX}{name} for a data set"
        )
    if path.is_dir():
        raise ConfigError(name, "it is a folder", f"name a file in it, or write {DATA_SET_PREFIX}{name} for a data set")
    if path.suffix in _LINE_SUFFIXES:
        return _join(path.name, _read_lines(path))
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(MAX_CHARACTERS)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(name, error) from error
    return _join(path.name, [text])


def _read_lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                yield _read_line(line, f"{path}:{number}", is_first=number == 1)
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _read_line(line: bytes, where: str, *, is_first: bool) -> str:
    try:
        row = parse_object(line, is_first=is_first)
    except ValueError as error:
        raise ConfigError(where, str(error), "give JSON lines, one object a line") from error
    return find_text(row, where)


def find_text(row: dict[str, Any], where: str) -> str:
    """Give a row's text.

    Raises:
        ConfigError: it has none.
    """
    for field in TEXT_FIELDS:
        if isinstance(row.get(field), str):
            return str(row[field])
    raise ConfigError(where, f"it has no text under {' or '.join(TEXT_FIELDS)}", "give rows that have one")


def _join(name: str, texts: Iterable[str]) -> CalibrationSource:
    kept, num_characters = [], 0
    for text in texts:
        if text.strip():
            kept.append(text)
            num_characters += len(text)
        if num_characters >= MAX_CHARACTERS:
            break
    if not kept:
        raise ConfigError(name, "it holds no text", "give a file that does, or none to use the package's own")
    return CalibrationSource(name=name, text="\n\n".join(kept)[:MAX_CHARACTERS])


def _unreadable(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        name, f"the calibration text cannot be read ({error})", "give UTF-8 text, JSON lines, or a data set's name"
    )
