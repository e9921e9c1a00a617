"""Text from a data set of the Hugging Face hub, or from its cache, by the ``datasets`` library."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA_SET_PREFIX = "dataset:"
TEXT_FIELDS = ("text", "prompt")
"""Where a row has its text, the first of them that is there. Answers of labelled items are left alone: no step may
learn what an evaluation asks."""
_SPELLING = "org/name[:config][@revision][#split]"
_NAME = re.compile(
    r"(?P<path>[^:@#]+)(:(?P<config>[^@#]+))?(@(?P<revision>[^#]+))?(#(?P<split>.+))?",
)
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_FILE_ENDING = re.compile(r"\.[A-Za-z]\w*$")
"""Versions begin with a digit, as in ``org/text-2.0``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetName:
    """A data set of the hub, or a folder that ``datasets`` can read."""

    path: str
    config: str | None
    revision: str | None
    split: str


def names_data_set(name: str) -> bool:
    """Say whether a name without the prefix looks like a data set of the hub, and not like a file."""
    match = _NAME.fullmatch(name)
    path = match["path"] if match else ""
    return _REPOSITORY.fullmatch(path) is not None and _FILE_ENDING.search(path) is None


def parse_data_set_name(name: str) -> DataSetName:
    """Read ``org/name[:config][@revision][#split]``; the split is ``train`` unless it is said.

    Raises:
        ConfigError: it is not spelled so.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"{DATA_SET_PREFIX}{name}", "it is not a data set's name", f"write {_SPELLING}")
    return DataSetName(
        path=match["path"], config=match["config"], revision=match["revision"], split=match["split"] or "train"
    )


def read_data_set(name: str) -> Iterator[str]:
    """Give the texts of a data set's rows, in their order.

    Raises:
        ConfigError: ``datasets`` is not installed, the set is neither within reach nor in the cache, it has no such
            config or split, or its rows have no text.
    """
    data_set = _load(parse_data_set_name(name), where=f"{DATA_SET_PREFIX}{name}")
    field = next((field for field in TEXT_FIELDS if field in data_set.column_names), None)
    if field is None:
        problem = f"it has no column {' or '.join(TEXT_FIELDS)}, but {', '.join(data_set.column_names)}"
        raise ConfigError(f"{DATA_SET_PREFIX}{name}", problem, "give another data set")
    for row in data_set.select_columns([field]):
        if isinstance(row[field], str):
            yield row[field]


def _load(name: DataSetName, *, where: str) -> Any:
    try:
        # Optional, and slow to import.
        import datasets  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            where,
            f"there is no such file, and data sets need a package that is not installed ({error.name})",
            'check the path, or: pip install "ensemble-serving[datasets]"',
        ) from error
    bars_were_on = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name.path, name.config, revision=name.revision, split=name.split)
    except (OSError, ValueError, RuntimeError) as error:
        remedy = "check path and spelling, or connect once: what was fetched stays in the hub's cache"
        raise ConfigError(where, f"it cannot be loaded ({str(error).splitlines()[0]})", remedy) from error
    finally:
        if bars_were_on:
            datasets.enable_progress_bars()
