"""Reads one line of JSON strictly, and says in a few words what is wrong with it."""

from __future__ import annotations

import codecs
import json
from typing import Annotated, Any

from pydantic import StringConstraints, ValidationError

SomeText = Annotated[str, StringConstraints(pattern=r"\S")]
"""A text that is not blank."""
ARRAY_PROBLEM = "the file is a JSON array, not JSON lines (`jq -c '.[]'` makes them of it)"


def parse_object(raw: bytes, *, is_first: bool) -> dict[str, Any]:
    """Read the JSON object that a line has; only the first line can begin with a byte order mark.

    Raises:
        ValueError: it is no such line, with the reason for a person.
    """
    if is_first and raw.startswith(codecs.BOM_UTF8):
        raise ValueError("the file begins with a byte order mark; save it as UTF-8 without one")
    if not raw.strip():
        raise ValueError("it is blank")
    if is_first and begins_array(raw):
        raise ValueError(ARRAY_PROBLEM)
    try:
        data = json.loads(raw.decode(), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - what was read is wrong, not a caller's type
    return data


def begins_array(line: bytes) -> bool:
    """Say whether a file whose first line this is holds one JSON array, instead of an object a line."""
    return line.lstrip().startswith(b"[")


def explain(error: ValidationError) -> str:
    """Tell the first thing that is wrong with an object, in one line."""
    first = error.errors()[0]
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"]).lstrip(".")
    if first["type"] == "missing":
        return f"it has no {place}"
    if first["type"] == "string_pattern_mismatch":
        return f"its {place} is blank"
    if first["type"] == "string_unicode":
        return f"its {place} has half a character (a lone surrogate), which no message can carry"
    return f"its {place} is wrong: {str(first['msg']).lower()}"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value_by_key: dict[str, Any] = {}
    for key, value in pairs:
        if key in value_by_key:
            raise ValueError(f"its key {key!r} stands twice")
        value_by_key[key] = value
    return value_by_key
