"""Naming layers: in full, by the last part, or by a pattern after ``re:``."""

from __future__ import annotations

import re

_PATTERN_PREFIX = "re:"


def check_layer_name(name: str) -> str:
    """Give the name back when it can be matched.

    Raises:
        ValueError: its pattern is no regular expression.
    """
    if name.startswith(_PATTERN_PREFIX):
        try:
            re.compile(name.removeprefix(_PATTERN_PREFIX))
        except (re.error, OverflowError, RecursionError) as error:
            message = f"{name!r} is not a regular expression ({error})"
            raise ValueError(message) from error
    return name


def is_ignored(name: str, ignore: tuple[str, ...]) -> bool:
    """Say whether a layer is among those to ignore, whose names have been checked."""
    return any(
        re.match(pattern.removeprefix(_PATTERN_PREFIX), name) is not None
        if pattern.startswith(_PATTERN_PREFIX)
        else name == pattern or name.endswith(f".{pattern}")
        for pattern in ignore
    )
