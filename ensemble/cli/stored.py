"""``store:NAME`` as commands take it: the environment says in which store, unless the reference does."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ensemble.checkpoints.progress import OnPhase
from ensemble.checkpoints.reference import (
    DIGEST_CHARACTERS,
    NAME_RULE,
    STORE_PREFIX,
    StoreReference,
    is_name,
    parse_stored,
)
from ensemble.environment import cache_dir, store_url
from ensemble.errors import ConfigError, InvalidRequestError

if TYPE_CHECKING:
    from ensemble.checkpoints.store import CheckpointStore

_PACKED = re.compile(r"([.-](I?Q\d\w*|B?F16|F32))?\.gguf$", re.IGNORECASE)
"""A GGUF file's ending, with how its weights are stored."""


def with_store(reference: str) -> str:
    """Write which store a reference means; every other reference stays.

    Raises:
        CheckpointError: it begins as one into a store, and is none.
    """
    return str(parse_stored(reference, url=store_url())) if reference.startswith(STORE_PREFIX) else reference


def short_name(name: str, url: str) -> str:
    """Write a name in a store as it is said after ``store:``: with the URL of a store that is not the default."""
    return name if url == store_url() else f"{name}@{url}"


def parse_target(reference: str) -> StoreReference:
    """Read the name under which a checkpoint is to be stored.

    Raises:
        CheckpointError: it is no reference into a store.
        InvalidRequestError: it is a digest, which nobody chooses.
    """
    target = parse_stored(reference, url=store_url())
    if not target.name:
        raise InvalidRequestError("output", "a digest follows from the bytes", f"give {STORE_PREFIX}NAME")
    return target


def family_of(source: str) -> str:
    """Name the family of what is made from a checkpoint: a stored one's own, else by its file, folder or repository.

    Raises:
        CheckpointError: the store has no such name, or what it means cannot be read.
        ConfigError: the store cannot be reached.
    """
    if source.startswith(STORE_PREFIX):
        return _family_of_stored(parse_stored(source, url=store_url()))
    last = re.split(r"[/\\:]", source.partition("@")[0].rstrip("/\\"))[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", _PACKED.sub("", last))
    return plain.strip("._-").lower()[:63].rstrip("._-") or "unknown"


def _family_of_stored(stored: StoreReference) -> str:
    if stored.name:
        return _open(stored).look_up(stored.name).family
    found = _open(stored).look_up_digest(stored.digest)
    # What is made from it is a family at least.
    return found.family if found else stored.digest.replace(":", "-")[:DIGEST_CHARACTERS]


def read_text(recipe: Path) -> str:
    """Give what a recipe's file says, as far as it can be read; whoever needs it tells what is wrong with it."""
    return recipe.read_text("utf-8", errors="replace") if recipe.is_file() else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where a command writes checkpoints: into a folder, or into one from which they are then stored by name."""

    folder: Path
    target: StoreReference | None = None
    replace: bool = False

    @classmethod
    def of(cls, output: str, *, replace: bool, made_from: Sequence[str]) -> Self:
        """Read a folder's path or ``store:NAME``; ``made_from`` is all that the command makes the checkpoints from.

        Raises:
            CheckpointError: what is given is no name.
            InvalidRequestError: a digest is given, or a folder to be replaced.
        """
        if not output.startswith(STORE_PREFIX):
            if replace:
                raise InvalidRequestError("--replace", "a folder is never replaced", "remove it, or give another")
            return cls(folder=Path(output))
        target = parse_target(output)
        # The same command, given again, finds what is ready; another one does not.
        key = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:16]
        return cls(folder=_storing() / key / target.name, target=target, replace=replace)

    def check(self, folders: Iterable[Path]) -> None:
        """Check, before the long work, that the names of what will lie in the folders can be given.

        Raises:
            CheckpointError: one means something already.
            ConfigError: one that follows from a recipe's file is no name in a store.
        """
        if self.target is not None:
            for folder in folders:
                name = self._name(folder)
                if not is_name(name):
                    problem = f"{folder.name!r} makes {STORE_PREFIX}{name}, and a name in a store is of {NAME_RULE}"
                    raise ConfigError("--recipe", problem, "rename the recipe's file, or give a shorter output")
                _open(self.target).check_free(name, replace=self.replace)

    def publish(self, folder: Path, *, source: str, on_phase: OnPhase) -> str:
        """Store what was written into a folder, if that is wanted, and say where it is.

        Raises:
            ConfigError: the store does not take it; what was written stays.
        """
        if self.target is None:
            return str(folder)
        store, name = _open(self.target), self._name(folder)
        said = short_name(name, self.target.url)
        try:
            stored = store.put(
                folder, name, family=family_of(source), source=source, replace=self.replace, on_phase=on_phase
            )
        except ConfigError as error:
            remedy = f"mend that, then `ensemble models add {folder} {said}` stores what is ready"
            raise ConfigError(error.where, error.problem, remedy) from error
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # others of the same command are still there
            for parent in folder.relative_to(_storing()).parents[:-1]:
                (_storing() / parent).rmdir()
        return f"{STORE_PREFIX}{said}, {stored.digest}"

    def _name(self, folder: Path) -> str:
        """Name what lies in a folder: as was said, or, of several below it, each by its own name, too."""
        name = self.target.name if self.target else ""
        return name if folder == self.folder else f"{name}-{folder.name}"


def _storing() -> Path:
    """Give the folder of what is made and not stored yet."""
    return cache_dir() / "checkpoints" / "storing"


def _open(reference: StoreReference) -> CheckpointStore:
    from ensemble.checkpoints.store import CheckpointStore  # noqa: PLC0415 - fsspec takes its time

    return CheckpointStore.at(reference.url)
