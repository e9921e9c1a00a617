"""A store of checkpoints: folders named by their digests, and names for them that people choose.

Under its root, which is a folder or an fsspec URL, lie ``objects/sha256-DIGEST/`` (``store_object.py``) and
``names/NAME.json``. A name is written in one step once its object is whole, so that an interrupted writer leaves
nothing that a name leads to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.reference import (
    NAME_RULE,
    STORE_PREFIX,
    StoreReference,
    is_name,
    name_file,
    object_folder,
)
from ensemble.checkpoints.storage import name_of_leftover
from ensemble.checkpoints.store_manifest import describe_folder
from ensemble.checkpoints.store_object import StoreObject, digest_of
from ensemble.errors import CheckpointError, ConfigError
from ensemble.files.location import Location
from ensemble.files.locks import is_lock

GRACE_S = 3_600.0
"""What was written so lately may belong to a writer who has not named it yet."""
_NAME_SUFFIX = ".json"


class StoredName(BaseModel):
    """What a name in a store means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    name: str
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    family: str = Field(description="which base model it was made from; members of one family share errors")
    source: str = Field(description="the reference that it was made from")
    stored_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointStore:
    """Checkpoints by digest and by name, on this machine's disk or behind a URL. Calls block.

    Every method raises ConfigError where the disk or the store refuses.
    """

    root: Location

    @classmethod
    def at(cls, url: str) -> Self:
        """Open the store at a folder's path or an fsspec URL; it need not be there yet.

        Raises:
            ConfigError: fsspec does not know it, or needs a package that is not installed.
        """
        return cls(root=Location.of(url))

    def object(self, digest: str) -> StoreObject:
        """Give the place of a checkpoint, which may be empty."""
        return StoreObject(location=self.root.child(object_folder(digest)), digest=digest)

    def names(self) -> tuple[str, ...]:
        """List the names in order."""
        found = self._names.names()
        return tuple(
            sorted(
                name.removesuffix(_NAME_SUFFIX)
                for name in found
                if name.endswith(_NAME_SUFFIX) and not name.startswith(".")
            )
        )

    def look_up(self, name: str) -> StoredName:
        """Say what a name means.

        Raises:
            CheckpointError: there is no such name, or what it means cannot be read.
        """
        place = self._name(name)
        where = f"{STORE_PREFIX}{name}"
        if not place.exists():
            known = ", ".join(self.names()) or "none"
            problem = f"the store {self.root} has no such name; it has: {known}"
            raise CheckpointError(where, problem, "check the spelling, or ENSEMBLE_STORE")
        try:
            return StoredName.model_validate_json(place.read())
        except ValidationError as error:
            problem = f"{place} is damaged ({error.errors()[0]['msg']})"
            raise CheckpointError(where, problem, "name the checkpoint again with --replace") from error

    def look_up_digest(self, digest: str) -> StoredName | None:
        """Say what was said of a checkpoint when it was first named; None where no name leads to it."""
        found: list[StoredName] = []
        for name in self.names():
            # One that is damaged, or was taken away meanwhile, says nothing about any checkpoint.
            with suppress(CheckpointError):
                found.append(self.look_up(name))
        leading = [stored for stored in found if stored.digest == digest]
        return min(leading, key=lambda stored: stored.stored_at, default=None)

    def find(self, reference: StoreReference) -> StoreObject:
        """Give the object that a reference means; it may be damaged or gone.

        Raises:
            CheckpointError: there is no such name.
        """
        return self.object(reference.digest or self.look_up(reference.name).digest)

    def check_free(self, name: str, *, replace: bool) -> None:
        """Check, before long work, that a name can be given to what comes out of it.

        Raises:
            CheckpointError: it means something already, and is not to be replaced.
        """
        if not replace and self._name(name).exists():
            digest = self.look_up(name).digest
            raise CheckpointError(
                f"{STORE_PREFIX}{name}", f"it is {digest} already", "choose another name, or give --replace"
            )

    def put(
        self,
        folder: Path,
        name: str,
        *,
        family: str,
        source: str,
        replace: bool = False,
        on_phase: OnPhase = ignore_phase,
    ) -> StoredName:
        """Store a checkpoint's folder under a name, which means it once all of it is there.

        Raises:
            CheckpointError: the folder is no whole checkpoint, the name is none, or it means another one and is not to
                be replaced.
        """
        if not is_name(name):
            raise CheckpointError(f"{STORE_PREFIX}{name}", f"a name in a store is of {NAME_RULE}", "give another")
        manifest = describe_folder(folder, on_phase)
        self._check_same(name, manifest.digest, replace=replace)
        place = self.object(manifest.digest)
        with place.held(on_phase):
            place.put(folder, manifest, on_phase)
            on_phase("store its name", 0.0)
            stored = StoredName(
                name=name, digest=manifest.digest, family=family, source=source, stored_at=datetime.now(tz=UTC)
            )
            self._names.make_folder()
            self._name(name).write(f"{stored.model_dump_json(indent=2)}\n".encode())
        return stored

    def remove(self, name: str) -> StoredName:
        """Take a name away; its object stays until it is pruned.

        Raises:
            CheckpointError: there is no such name.
        """
        stored = self.look_up(name)
        self._name(name).remove()
        return stored

    def prune(self, *, grace_s: float = GRACE_S) -> Iterator[tuple[str, int]]:
        """Take away what no name leads to, and what interrupted writers left; gives each with its bytes.

        What was written within the last ``grace_s`` seconds stays, since its writer may be about to name it. So does,
        on this machine's disk, whatever another process is storing. Behind a URL there are no locks, and the grace
        alone keeps what others write.
        """
        named = self._find_digests()
        for name in sorted(self._objects.names()):
            if is_lock(name) or digest_of(name) in named:
                continue
            num_bytes = self._prune_one(name, grace_s)
            if num_bytes is not None:
                yield name, num_bytes

    def _prune_one(self, name: str, grace_s: float) -> int | None:
        """Take one away and give its bytes; None where somebody wants it, or has taken it or part of it meanwhile."""
        try:
            with self._held_if_free(name) as is_held:
                # A look at its time is cheap, and behind a URL one at all names is not.
                if is_held and _find_old(self._objects.child(name), grace_s) is not None:
                    return self._prune_held(name, grace_s)
        except ConfigError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        return None

    def _prune_held(self, name: str, grace_s: float) -> int | None:
        place, digest = self._objects.child(name), digest_of(name)
        # Whoever stores makes its time new and then writes a name: seen in this order, one of them shows.
        if digest in self._find_digests():
            return None
        num_bytes = _find_old(place, grace_s)
        if num_bytes is None:
            return None
        if digest is None:
            place.remove()
        else:
            self.object(digest).remove()
        return num_bytes

    @contextmanager
    def _held_if_free(self, name: str) -> Iterator[bool]:
        digest = digest_of(name_of_leftover(name) or name)
        if digest is None:
            yield True
            return
        with self.object(digest).held_if_free() as is_held:
            yield is_held

    def _find_digests(self) -> set[str]:
        return {stored.digest for stored in self._look_up_all()}

    def _look_up_all(self) -> Iterator[StoredName]:
        """Give what the names mean; a damaged one means something, too, and is an error."""
        for name in self.names():
            try:
                yield self.look_up(name)
            except ConfigError:
                # It may have been taken away meanwhile.
                if self._name(name).exists():
                    raise

    def _check_same(self, name: str, digest: str, *, replace: bool) -> None:
        if replace or not self._name(name).exists():
            return
        found = self.look_up(name).digest
        if found != digest:
            raise CheckpointError(
                f"{STORE_PREFIX}{name}",
                f"it is {found} already, and this is {digest}",
                "choose another name, or give --replace",
            )

    def _name(self, name: str) -> Location:
        return self.root.child(name_file(name))

    @property
    def _objects(self) -> Location:
        return self.root.child("objects")

    @property
    def _names(self) -> Location:
        return self.root.child("names")


def _find_old(place: Location, grace_s: float) -> int | None:
    """Give the bytes in a folder of files, or of a file; None where one was written within so many seconds."""
    files = [place.child(name) for name in place.names()] if place.is_folder() else [place]
    changed_at = max(file.changed_at() for file in files) if files else _folder_changed_at(place)
    return None if time.time() - changed_at < grace_s else sum(file.size_bytes() for file in files)


def _folder_changed_at(folder: Location) -> float:
    # An empty one may have just been made by a writer. Where stores do not know its time, nothing is lost if it stays.
    with suppress(ConfigError):
        return folder.changed_at()
    return math.inf
