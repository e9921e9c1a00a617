"""A store of checkpoints: folders named by their digests, and names for them that people choose.

Under its root, which is a folder or an fsspec URL, lie ``objects/sha256-DIGEST/`` (``store_object.py``) and
``names/NAME.json``. A name is written in one step once its object is whole, so that an interrupted writer leaves
nothing that a name leads to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.reference import STORE_PREFIX, StoreReference, name_file, object_folder
from ensemble.checkpoints.store_object import StoreObject, describe_folder, digest_of
from ensemble.errors import CheckpointError
from ensemble.files.location import Location

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
            CheckpointError: the folder is no whole checkpoint, or the name means another one and is not to be replaced.
        """
        manifest = describe_folder(folder, on_phase)
        self._check_same(name, manifest.digest, replace=replace)
        self.object(manifest.digest).put(folder, manifest, on_phase)
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

        What was written within the last ``grace_s`` seconds stays, since its writer may be about to name it.
        """
        named = {self.look_up(name).digest for name in self.names()}
        objects = self.root.child("objects")
        for name in sorted(objects.names()):
            place, digest = objects.child(name), digest_of(name)
            if digest in named:
                continue
            num_bytes, changed_at = _measure(place)
            if time.time() - changed_at < grace_s:
                continue
            if digest is None:
                place.remove()
            else:
                self.object(digest).remove()
            yield name, num_bytes

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
    def _names(self) -> Location:
        return self.root.child("names")


def _measure(place: Location) -> tuple[int, float]:
    """Give the bytes in a folder of files, or of a file, and when it was changed last."""
    files = [place.child(name) for name in place.names()] if place.is_folder() else [place]
    changed_at = max((file.changed_at() for file in files), default=0.0)
    return sum(file.size_bytes() for file in files), changed_at
