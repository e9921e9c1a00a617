"""The votes on the fields of JSON objects: what each field's candidates are, who leads, and by how much."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from ensemble.voting.short_answer import normalise_answer

JsonObject = dict[str, Any]

MAX_DEPTH = 32
"""Objects and lists nested deeper are not read."""

_ABSENT = "absent"
_OBJECT = "object"


class Missing(Enum):
    """Stands for a field that an object does not have, which is not the same as null."""

    MISSING = "missing"


MISSING = Missing.MISSING


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one member says at one place: a JSON value or ``MISSING``; ``own_weight`` breaks ties."""

    weight: int
    own_weight: float
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One vote that was taken, at the place ``path``, and what won.

    ``value`` is the winner: ``MISSING``, {} for an object whose fields follow, or a value as a whole. ``backing`` is
    its sum, ``lead`` what it has over the second (or over nothing), ``open_lead`` what it has over every other value,
    those that nobody has given included.
    """

    path: tuple[str, ...]
    value: Any
    backing: int
    lead: int
    open_lead: int


def fields_of(samples: Sequence[Sample], tolerance: int) -> Iterator[Field]:
    """Take the votes on every field of the members' objects, an object's own vote before those on what is in it."""
    return _inside((), samples, tolerance)


def assemble(fields: Iterable[Field]) -> JsonObject:
    """Build the object that the votes make; fields that lost to their absence are not in it."""
    root: JsonObject = {}
    for field in fields:
        if not field.path or field.value is MISSING:
            continue
        place = root
        for key in field.path[:-1]:
            place = place[key]
        place[field.path[-1]] = {} if isinstance(field.value, dict) else field.value
    return root


def _inside(path: tuple[str, ...], samples: Sequence[Sample], tolerance: int) -> Iterator[Field]:
    """Vote on each field that any of these objects has, and on there being no others.

    On a field that nobody has named, everyone here votes for its absence: the first of what is given.
    """
    total = sum(sample.weight for sample in samples)
    yield Field(path=(), value=MISSING, backing=total, lead=total, open_lead=total)
    for key in sorted({key for sample in samples for key in sample.value}):
        here = [replace(sample, value=sample.value.get(key, MISSING)) for sample in samples]
        yield from _at((*path, key), here, tolerance)


def _at(path: tuple[str, ...], samples: Sequence[Sample], tolerance: int) -> Iterator[Field]:
    kind, of_kind, field = _elect(path, samples, tolerance, key_of=_kind_of)
    if kind == _ABSENT:
        yield replace(field, value=MISSING)
    elif kind == _OBJECT:
        yield replace(field, value={})
        yield from _inside(path, of_kind, tolerance)
    else:
        _, _, spelling = _elect(path, of_kind, tolerance, key_of=_spelling_of)
        yield replace(field, open_lead=min(field.open_lead, spelling.open_lead), value=spelling.value)


def _elect(
    path: tuple[str, ...], samples: Sequence[Sample], tolerance: int, *, key_of: Callable[[Any], str]
) -> tuple[str, list[Sample], Field]:
    """Count the samples by key: the key that wins, its samples, and the vote."""
    by_key: dict[str, list[Sample]] = {}
    for sample in samples:
        by_key.setdefault(key_of(sample.value), []).append(sample)
    sums = {key: sum(sample.weight for sample in group) for key, group in by_key.items()}
    best = max(sums.values())
    tied = sorted(key for key, weight in sums.items() if best - weight <= tolerance)
    winner = max(tied, key=lambda key: max(sample.own_weight for sample in by_key[key]))  # the first of equals
    rivals = [weight for key, weight in sums.items() if key != winner]
    backing = sums[winner]
    field = Field(
        path=path,
        value=by_key[winner][0].value,
        backing=backing,
        lead=backing - max(rivals, default=0),
        open_lead=backing - max([0, *rivals]),
    )
    return winner, by_key[winner], field


def _kind_of(value: object) -> str:
    """Give the key under which equal values meet, in the JSON of what they are once normalised."""
    if value is MISSING:
        return _ABSENT
    return _OBJECT if isinstance(value, dict) else _spelling_of(_normalised(value))


def _normalised(value: Any) -> Any:
    if isinstance(value, str):
        return normalise_answer(value) or value.strip()
    if isinstance(value, list):
        return [_normalised(part) for part in value]
    if isinstance(value, dict):
        return {key: _normalised(part) for key, part in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _spelling_of(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
