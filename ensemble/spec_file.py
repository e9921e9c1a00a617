"""Reads a spec from a YAML file; every mistake names its place and the remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ensemble.checkpoints.reference import PACKAGE_PREFIX
from ensemble.config import Spec, cache_dir
from ensemble.errors import ConfigError

CACHE_PREFIX = "cache:"
"""A checkpoint in the folder that ``ENSEMBLE_CACHE_DIR`` names, wherever that is on this machine."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without the trap that the last of two equal keys wins silently."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """Refuse a key that stands twice; here a mapping has its own keys alone, not yet those merged into it."""
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key[1]!r} stands twice", problem_mark=node.start_mark)
        return node


def load_spec(path: Path) -> Spec:
    """Read and check a spec.

    A checkpoint is taken from the file's folder when it begins with ``./`` or ``../``, ends in ``.gguf``, or exists
    there; ``~`` is the home folder, ``cache:`` the cache, and everything else stays as it is.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or is no spec.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be read ({error.strerror})", "give the path of a spec") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "it is not UTF-8 text", "give the path of a spec") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"it is not valid YAML: {_one_line(error)}", "mend it there") from error
    except RecursionError as error:
        raise ConfigError(str(path), "it is nested too deeply, or within itself", "write it flatter") from error
    if not isinstance(data, dict):
        raise ConfigError(str(path), "it is not a mapping", "begin with `version: 1` and `members:`")
    return parse_spec(data, source=str(path), folder=path.parent)


def parse_spec(data: Mapping[str, Any], *, source: str, folder: Path) -> Spec:
    """Check a spec that was read already.

    Raises:
        ConfigError: it is no spec; all mistakes are in the problem.
    """
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        problems = [f"{_place(problem['loc'])}: {_problem(problem)}" for problem in _own_problems(error)]
        raise ConfigError(source, "; ".join(problems), "see `ensemble schema` for what a spec may say") from error
    members = tuple(
        member.model_copy(update={"checkpoint": _checkpoint(member.checkpoint, folder, where=f"members[{index}]")})
        for index, member in enumerate(spec.members)
    )
    return spec.model_copy(update={"members": members})


def spec_schema() -> str:
    """Give the spec's JSON schema, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Spec.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def _checkpoint(reference: str, folder: Path, *, where: str) -> str:
    if not reference or reference.startswith(PACKAGE_PREFIX):
        return reference
    try:
        if reference.startswith(CACHE_PREFIX):
            return str(cache_dir().resolve() / reference.removeprefix(CACHE_PREFIX))
        path = folder / Path(reference).expanduser()
        is_path = reference.startswith(("./", "../", "~", "/")) or path.suffix == ".gguf" or path.exists()
        return str(path.resolve()) if is_path else reference
    # An unknown user's home, a name too long for a file, a null character.
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(f"{where}.checkpoint", f"{reference!r} cannot be a path ({error})", "mend it") from error


def _own_problems(error: ValidationError) -> list[Any]:
    """Leave out that a list is too short where its items were only refused."""
    problems = error.errors()
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or all(other is problem or other["loc"][: len(problem["loc"])] != problem["loc"] for other in problems)
    ]


def _place(location: tuple[int | str, ...]) -> str:
    # Tagged unions put their tag into the location, which is no key of the file.
    keys = [key for key in location if key not in {"embedded", "echo"}]
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return path.lstrip(".") or "the spec"


def _problem(problem: Any) -> str:
    if problem["type"] != "extra_forbidden":
        message = str(problem["msg"]).removeprefix("Value error, ")
        return f"{message[0].lower()}{message[1:]}"
    key = str(problem["loc"][-1])
    near = difflib.get_close_matches(key, sorted(set(_field_names(Spec))), n=1)
    return f"there is no such key{f'; did you mean {near[0]!r}?' if near else ''}"


def _field_names(model: type[BaseModel]) -> Iterator[str]:
    for definition in (model.model_json_schema(), *model.model_json_schema().get("$defs", {}).values()):
        yield from definition.get("properties", {})


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())
