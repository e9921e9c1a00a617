"""Recipes that leave options open: which values are tried, and which of them are milder than others.

In a template any option of a recipe may be ``{search: [a, b, c]}``, values of which each is tried, or ``{search: {from:
a, to: b, step: c}}``, values from the mildest to the strongest, of which only those are tried that tell where a limit
is passed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemble.compression.recipe import Recipe, parse_recipe, read_document
from ensemble.errors import ConfigError

SEARCH = "search"
MAX_POINTS = 1_000
Number = int | float


class OpenRange(BaseModel):
    """Evenly spaced values, the mildest first."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    mildest: Number = Field(alias="from")
    strongest: Number = Field(alias="to")
    step: Number = Field(gt=0)

    @model_validator(mode="after")
    def _is_short(self) -> Self:
        if not abs(self.strongest - self.mildest) / self.step < MAX_POINTS:
            raise ValueError(f"it has more than {MAX_POINTS} values")
        return self

    def values(self) -> tuple[Number, ...]:
        """Give the values; whole ones where all three are whole."""
        start, end, step = (Decimal(str(one)) for one in (self.mildest, self.strongest, self.step))
        direction = 1 if end >= start else -1
        exact = [start + direction * step * number for number in range(int(abs(end - start) / step) + 1)]
        is_whole = all(isinstance(one, int) for one in (self.mildest, self.strongest, self.step))
        return tuple(int(one) if is_whole else float(one) for one in exact)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A recipe without anything open, and a name that tells its values."""

    name: str
    recipe: Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Points from the mildest to the strongest: with each, loss and speed grow, or that is what is hoped."""

    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """An option that is left open: where it stands, what people call it, and its values."""

    path: tuple[str | int, ...]
    label: str
    values: tuple[Any, ...]
    is_ordered: bool


def load_templates(paths: Sequence[Path]) -> tuple[Chain, ...]:
    """Read recipes with open options, or without any.

    Raises:
        ConfigError: one cannot be read, a value makes no recipe, there are too many, or two files have one name.
    """
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        raise ConfigError("--recipe", "two recipes have the same name", "give their files different names")
    chains = tuple(chain for path in paths for chain in _load_template(path))
    num_points = sum(len(chain.points) for chain in chains)
    if num_points > MAX_POINTS:
        problem = f"they leave {num_points} recipes open, and {MAX_POINTS} are the most"
        raise ConfigError("--recipe", problem, "search fewer values")
    return chains


def _load_template(path: Path) -> Iterator[Chain]:
    document = read_document(path)
    axes = [_read_axis(document, place, str(path)) for place in _find_open(document)]
    ordered = [axis for axis in axes if axis.is_ordered]
    if len(ordered) > 1:
        problem = f"{' and '.join(axis.label for axis in ordered)} are ranges, and one alone is searched as such"
        raise ConfigError(str(path), problem, "give the values of the others as lists")
    labels = _label(axes)
    free = [axis for axis in axes if not axis.is_ordered]
    if (
        sum(1 for _ in itertools.islice(itertools.product(*(axis.values for axis in axes)), MAX_POINTS + 1))
        > MAX_POINTS
    ):
        raise ConfigError(str(path), f"it leaves more than {MAX_POINTS} recipes open", "search fewer values")
    for chosen in itertools.product(*(axis.values for axis in free)):
        settings = dict(zip((axis.path for axis in free), chosen, strict=True))
        steps = [{**settings, axis.path: value} for axis in ordered for value in axis.values] or [settings]
        yield Chain(points=tuple(_build_point(path, document, one, labels) for one in steps))


def _find_open(node: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Find every ``{search: ...}``, in the order of the file."""
    if isinstance(node, dict):
        if SEARCH in node:
            yield place
            return
        for key, value in node.items():
            yield from _find_open(value, (*place, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _find_open(value, (*place, index))


def _read_axis(document: object, place: tuple[str | int, ...], where: str) -> _Axis:
    node = _at(document, place)
    step = _at(document, place[:2]) if len(place) > 2 and place[0] == "steps" else None
    kind = str(step.get("type", "")) if isinstance(step, dict) else ""
    label = ".".join(filter(None, (kind, *map(str, place[2:])))) if kind else ".".join(map(str, place))
    searched = node[SEARCH]
    remedy = "write {search: [a, b]} or {search: {from: a, to: b, step: c}}"
    if len(node) > 1:
        raise ConfigError(f"{where}: {label}", "beside search nothing else can be said", remedy)
    if isinstance(searched, list) and searched:
        return _Axis(path=place, label=label, values=tuple(searched), is_ordered=False)
    try:
        values = OpenRange.model_validate(searched).values()
    except ValidationError as error:
        raise ConfigError(f"{where}: {label}", f"it is no search ({error.errors()[0]['msg']})", remedy) from error
    return _Axis(path=place, label=label, values=values, is_ordered=True)


def _label(axes: Sequence[_Axis]) -> dict[tuple[str | int, ...], str]:
    """Name each open option as shortly as tells it from the others."""
    last = Counter(str(axis.path[-1]) for axis in axes)
    whole = Counter(axis.label for axis in axes)

    def name(axis: _Axis) -> str:
        if last[str(axis.path[-1])] == 1:
            return str(axis.path[-1])
        return axis.label if whole[axis.label] == 1 else ".".join(map(str, axis.path))

    return {axis.path: name(axis) for axis in axes}


def _build_point(
    path: Path, document: object, settings: dict[tuple[str | int, ...], Any], labels: dict[tuple[str | int, ...], str]
) -> Point:
    filled: Any = deepcopy(document)
    for place, value in settings.items():
        _at(filled, place[:-1])[place[-1]] = value
    told = ", ".join(f"{labels[place]}={value}" for place, value in settings.items())
    name = f"{path.stem}({told})" if told else path.stem
    return Point(name=name, recipe=parse_recipe(filled, where=f"{path}{f' with {told}' if told else ''}"))


def _at(node: Any, place: tuple[str | int, ...]) -> Any:
    for key in place:
        node = node[key]
    return node
