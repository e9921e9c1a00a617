"""Reads labelled items from files of JSON lines, and refuses what could not be judged, line by line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from ensemble.calibration.items import LabelledItem
from ensemble.errors import ConfigError, InvalidRequestError
from ensemble.files.json_line import ARRAY_PROBLEM, SomeText, begins_array, explain, parse_object
from ensemble.voting.short_answer import normalise_answer

MAX_TOLD = 20
"""Problems told one by one; the rest is counted."""

Check = Callable[[LabelledItem], None]
"""Raises InvalidRequestError for an item that the ensemble would refuse."""


class _ItemLine(BaseModel):
    """One line as it stands; keys that are not named here are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: SomeText | None = None
    prompt: SomeText
    choices: list[SomeText] = []
    answer: int | None = None
    reference: SomeText | None = Field(default=None, validation_alias=AliasChoices("reference", "target"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemProblem:
    """Why a line cannot be used; line numbers begin at 1."""

    path: Path
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSet:
    """The items of one file, in its order; ``name`` is the file's, ``digest`` of what the items say."""

    name: str
    items: tuple[LabelledItem, ...]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFile:
    """A file as it was read: what can be used, and what cannot."""

    item_set: ItemSet
    num_lines: int
    problems: tuple[ItemProblem, ...]


def read_item_file(path: Path, *, check: Check | None = None) -> ItemFile:
    """Read a file of items; ``check`` says what else would be refused.

    A line is {"id", "prompt", "choices", "answer"} with the answer's index from 0, or {"id", "prompt", "reference"}
    with the right text ("target" is another spelling of "reference"); further keys are ignored. A line without an id
    is named by its number, ``line-17``. All of a file's items are of the same kind.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be read ({error.strerror})", "give a file of JSON lines") from error
    if begins_array(raw):
        raise ConfigError(str(path), ARRAY_PROBLEM, "give one object a line")
    lines = raw.removesuffix(b"\n").split(b"\n") if raw else []
    reader = _LineReader(check=check)
    problems: list[ItemProblem] = []
    for number, line in enumerate(lines, start=1):
        problem = reader.read(line, number)
        if problem:
            problems.append(ItemProblem(path=path, line=number, problem=problem))
    if not lines:
        problems.append(ItemProblem(path=path, line=1, problem="the file is empty"))
    items = tuple(reader.items)
    item_set = ItemSet(name=set_name(path), items=items, digest=digest_items(items))
    return ItemFile(item_set=item_set, num_lines=max(1, len(lines)), problems=tuple(problems))


def check_item_files(files: Sequence[ItemFile]) -> tuple[ItemSet, ...]:
    """Give the sets of files without problems.

    Raises:
        ConfigError: a line cannot be used (the first problems are told, the rest counted), or two files share a name.
    """
    problems = [problem for file in files for problem in file.problems]
    if problems:
        num_lines = sum(file.num_lines for file in files)
        told = "; ".join(map(str, problems[:MAX_TOLD]))
        more = f"; and {len(problems) - MAX_TOLD} more" if len(problems) > MAX_TOLD else ""
        raise ConfigError(
            "items", f"{len(problems)} of {num_lines} lines cannot be used: {told}{more}", "mend or remove them"
        )
    names = [file.item_set.name for file in files]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("items", f"two files make a set named {name!r}", "rename one")
    return tuple(file.item_set for file in files)


def without_problems(file: ItemFile) -> ItemFile:
    """Leave out what cannot be used, unless nothing else is there."""
    return replace(file, problems=()) if file.item_set.items else file


def set_name(path: Path) -> str:
    """Name the set of a file: its name without the last ending, ``sciq.public`` for ``sciq.public.jsonl``."""
    return path.stem or path.name


def digest_items(items: Iterable[LabelledItem]) -> str:
    """Name what the items say, whatever file they stood in: SHA-256 of their canonical lines."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(item_to_json(item).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def item_to_json(item: LabelledItem) -> str:
    """Write an item in the one way that its digest is made of."""
    fields: dict[str, Any] = {"id": item.item_id, "prompt": item.prompt}
    if item.choices:
        fields |= {"choices": list(item.choices), "answer": item.answer}
    else:
        fields |= {"reference": item.reference}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def item_from_json(text: str) -> LabelledItem:
    """Read an item from a JSON object; further keys are left alone.

    Raises:
        ValueError: it is no item.
    """
    line = _ItemLine.model_validate_json(text)
    if line.id is None:
        raise ValueError("it has no id")
    return _build_item(line, item_id=line.id)


class _LineReader:
    """Reads one file's lines, and remembers what must not come twice."""

    def __init__(self, *, check: Check | None) -> None:
        self.items: list[LabelledItem] = []
        self._check = check
        self._line_by_id: dict[str, int] = {}
        self._line_by_question: dict[tuple[str, tuple[str, ...]], int] = {}

    def read(self, raw: bytes, number: int) -> str:
        """Take in one line; returns why it cannot be used, or nothing."""
        try:
            item = _parse_line(raw, number)
            self._check_id(item.item_id, number)
            self._check_question(item, number)
            self._check_kind(item)
            if self._check:
                self._check(item)
        except ValidationError as error:
            return explain(error)
        except InvalidRequestError as error:
            return f"{error.field}: {error.problem}"
        except ValueError as error:
            return str(error)
        self.items.append(item)
        return ""

    def _check_kind(self, item: LabelledItem) -> None:
        if self.items and bool(item.choices) != bool(self.items[0].choices):
            kind = "choices" if self.items[0].choices else "a reference"
            raise ValueError(f"its kind differs from the first item's, which has {kind}")

    def _check_id(self, item_id: str, number: int) -> None:
        first = self._line_by_id.setdefault(item_id, number)
        if first != number:
            raise ValueError(f"its id {item_id!r} stands on line {first} already")

    def _check_question(self, item: LabelledItem, number: int) -> None:
        """Refuse a question that stands there twice: it would be fitted on and measured on at once."""
        first = self._line_by_question.setdefault((item.prompt, tuple(sorted(item.choices))), number)
        if first != number:
            raise ValueError(f"its question stands on line {first} already")


def _parse_line(raw: bytes, number: int) -> LabelledItem:
    data = parse_object(raw, is_first=number == 1)
    if "reference" in data and "target" in data:
        raise ValueError("it has both a reference and a target, which mean the same")
    line = _ItemLine.model_validate(data)
    return _build_item(line, item_id=f"line-{number}" if line.id is None else line.id)


def _build_item(line: _ItemLine, *, item_id: str) -> LabelledItem:
    if line.choices and line.reference is not None:
        raise ValueError("it has both choices and a reference; give one of them")
    if line.choices:
        _check_choices(line.choices, line.answer)
        return LabelledItem(item_id=item_id, prompt=line.prompt, choices=tuple(line.choices), answer=line.answer)
    if line.answer is not None:
        raise ValueError("it has an answer and no choices")
    if line.reference is None:
        raise ValueError("it has neither choices with an answer nor a reference")
    if not normalise_answer(line.reference):
        raise ValueError(f"its reference {line.reference!r} has nothing left once normalised")
    return LabelledItem(item_id=item_id, prompt=line.prompt, reference=line.reference)


def _check_choices(choices: Sequence[str], answer: int | None) -> None:
    if answer is None:
        raise ValueError("it has no answer")
    if len(choices) < 2:
        raise ValueError("it has one choice; two or more make a question")
    if not 0 <= answer < len(choices):
        raise ValueError(f"its answer is {answer}, but choices go from 0 to {len(choices) - 1}")
    index_by_key: dict[str, int] = {}
    for index, choice in enumerate(choices):
        first = index_by_key.setdefault(normalise_answer(choice), index)
        if first != index:
            raise ValueError(
                f"choices[{first}] {choices[first]!r} and choices[{index}] {choice!r} are the same once normalised"
            )
