"""One checkpoint in a store: a folder named by its digest, whole once its manifest is there, which is written last.

The manifest has the files that decide what the model says, and its name follows from them, so that damage to either
shows. Beside them lie records (the recipe, an evaluation, a licence), which may be written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

from pydantic import ValidationError

from ensemble.checkpoints.content import PIECE_BYTES, PREFIX, hash_files, is_content
from ensemble.checkpoints.locks import locked
from ensemble.checkpoints.progress import OnPhase
from ensemble.checkpoints.storage import remove_leftovers, write_folder_whole
from ensemble.checkpoints.store_manifest import MANIFEST, ObjectManifest
from ensemble.errors import CheckpointError, ConfigError
from ensemble.files.location import Location
from ensemble.files.locks import locked_if_free
from ensemble.files.whole_file import disk_watched

_RECORD_SUFFIXES = {".csv", ".html", ".jinja", ".json", ".md", ".png", ".svg", ".txt", ".yaml", ".yml"}
_LICENCES = ("LICENSE", "LICENCE", "NOTICE")
_NUM_DIGITS = 64
_STAMP = ".wanted."
"""How the names of files begin whose time alone counts."""


def find_records(folder: Path) -> list[Path]:
    """List what lies beside a checkpoint and tells about it: the recipe, reports, licences."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_record(path.name))


def is_record(name: str) -> bool:
    """Say by a file's name whether it tells about a checkpoint."""
    is_told = Path(name).suffix in _RECORD_SUFFIXES or name.startswith(_LICENCES)
    return is_told and not (name.startswith(".") or name == MANIFEST or is_content(name))


def digest_of(name: str) -> str | None:
    """Give the digest of an object by its folder's name; None where it is no object's."""
    digest = name.replace("-", ":", 1)
    is_digest = digest.startswith(PREFIX) and len(digest) == len(PREFIX) + _NUM_DIGITS
    return digest if is_digest else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreObject:
    """A checkpoint's place in a store, where it may be whole, in part, or not at all."""

    location: Location
    digest: str

    def read_manifest(self) -> ObjectManifest:
        """Read what must be there.

        Raises:
            CheckpointError: there is no whole object, or its manifest is damaged.
        """
        place = self.location.child(MANIFEST)
        if not place.exists():
            raise CheckpointError(self.digest, f"{self.location} has no whole checkpoint", "put it there again")
        try:
            manifest = ObjectManifest.model_validate_json(place.read())
        except ValidationError as error:
            raise self._damaged(f"{MANIFEST} is none ({error.errors()[0]['msg']})") from error
        if manifest.digest != self.digest:
            raise self._damaged(f"{MANIFEST} is that of {manifest.digest}")
        return manifest

    def check_sizes(self) -> ObjectManifest:
        """Look whether every file is there in its length, and give the manifest.

        Raises:
            CheckpointError: one is not.
        """
        manifest = self.read_manifest()
        present = self.location.names()
        if strangers := _find_strangers(present, manifest):
            raise self._damaged(f"{strangers[0]} does not belong there")
        for name, facts in manifest.files.items():
            if name not in present:
                raise self._damaged(f"{name} is absent")
            num_bytes = self.location.child(name).size_bytes()
            if num_bytes != facts.num_bytes:
                raise self._damaged(f"{name} has {num_bytes} bytes instead of {facts.num_bytes}")
        return manifest

    def check_bytes(self, on_phase: OnPhase) -> ObjectManifest:
        """Read every file, which travels if it lies elsewhere, and give the manifest.

        Raises:
            CheckpointError: one is not what the manifest says.
        """
        manifest = self.check_sizes()
        for name, sha256 in self._hash_all(manifest, on_phase).items():
            if sha256 != manifest.files[name].sha256:
                raise self._damaged(f"{name} is {sha256} instead of {manifest.files[name].sha256}")
        return manifest

    @contextmanager
    def held(self, on_phase: OnPhase) -> Iterator[None]:
        """Keep this machine's other processes from storing or removing it; elsewhere nobody can be kept.

        Raises:
            CheckpointError: another process holds it for long.
            ConfigError: the disk does not take it.
        """
        if not self.location.is_local:
            yield
            return
        target = self.location.local_path
        with ExitStack() as stack:
            # What happens while it is held is not this disk's doing.
            with disk_watched(target):
                stack.enter_context(locked(target, on_phase, does="stores"))
            yield

    @contextmanager
    def held_if_free(self) -> Iterator[bool]:
        """Hold it unless another process does, and say whether it is held; elsewhere it is by everybody.

        Raises:
            ConfigError: the disk does not take it.
        """
        if not self.location.is_local:
            yield True
            return
        target = self.location.local_path
        with ExitStack() as stack:
            with disk_watched(target):
                is_held = stack.enter_context(locked_if_free(target))
            yield is_held

    def put(self, folder: Path, manifest: ObjectManifest, on_phase: OnPhase) -> None:
        """Copy a checkpoint here, unless it is here already and whole; its records are replaced.

        Whoever calls it holds the object until a name leads to it.

        Raises:
            CheckpointError: the folder, or what is here, changes meanwhile.
            ConfigError: the disk or the store does not take it.
        """
        # Somebody wants it: while it is read, and until the name is written.
        self._renew()
        if not self._is_whole(on_phase):
            self._write(folder, manifest, on_phase)
        for path in find_records(folder):
            self.location.child(path.name).write(_read_record(path))
        self._renew()
        # Behind a URL somebody may have taken it for a leftover.
        self.check_sizes()

    def attach(self, name: str, content: bytes) -> None:
        """Write a record beside the checkpoint, such as its evaluation, in place of an earlier one.

        Raises:
            CheckpointError: the object is not there.
            ConfigError: the disk or the store does not take it.
        """
        self.read_manifest()
        if not is_record(name):
            raise CheckpointError(name, "it is no record's name", f"end it in {', '.join(sorted(_RECORD_SUFFIXES))}")
        self.location.child(name).write(content)

    def fetch(self, folder: Path, on_phase: OnPhase) -> None:
        """Copy it into an empty folder of this machine.

        Raises:
            CheckpointError: it is not whole, or its bytes are not what the manifest says.
        """
        manifest = self.check_sizes()
        reading = _Reading(total_bytes=manifest.num_bytes, phase="fetch from the store", on_phase=on_phase)
        for name, facts in manifest.files.items():
            with self.location.child(name).reading() as source, (folder / name).open("wb") as sink:
                sha256 = reading.hash(source, sink)
            if sha256 != facts.sha256:
                raise self._damaged(f"{name} is {sha256} instead of {facts.sha256}")
        for name in self.location.names():
            if is_record(name):
                (folder / name).write_bytes(self.location.child(name).read())
        (folder / MANIFEST).write_bytes(manifest.to_bytes())

    def remove(self) -> None:
        """Take it away; a removal that is cut off leaves nothing that passes for whole."""
        self.location.child(MANIFEST).remove()
        self.location.remove()

    def _renew(self) -> None:
        """Make its time new, which keeps it from being pruned where there are no locks."""
        if self.location.is_local:
            with suppress(CheckpointError):
                self.location.child(MANIFEST).write(self.read_manifest().to_bytes())
            return
        # Some stores (HDFS) take no file in another's place, and the manifest must not be away even for a moment.
        self.location.make_folder()
        earlier = [name for name in self.location.names() if name.startswith(_STAMP)]
        with self.location.child(f"{_STAMP}{uuid4().hex}").filling() as stream:
            stream.write(b"This checkpoint was wanted when this file was written.\n")
        for name in earlier:
            # Another writer may take the same one away, having written a newer one, too.
            with suppress(ConfigError):
                self.location.child(name).remove()

    def _is_whole(self, on_phase: OnPhase) -> bool:
        # Elsewhere, too: stores' own checksums are of parts or of nothing, and writing again would disturb readers.
        with suppress(CheckpointError):
            self.check_bytes(on_phase)
            return True
        return False

    def _hash_all(self, manifest: ObjectManifest, on_phase: OnPhase) -> dict[str, str]:
        names = sorted(manifest.files)
        if self.location.is_local:
            return dict(
                zip(names, hash_files([self.location.local_path / name for name in names], on_phase), strict=True)
            )
        reading, sha256_by_name = _Reading(total_bytes=manifest.num_bytes, phase="check digest", on_phase=on_phase), {}
        for name in names:
            with self.location.child(name).reading() as source:
                sha256_by_name[name] = reading.hash(source)
        return sha256_by_name

    def _write(self, folder: Path, manifest: ObjectManifest, on_phase: OnPhase) -> None:
        if not self.location.is_local:
            self._fill(self.location, folder, manifest, on_phase)
            return
        target = self.location.local_path
        remove_leftovers(target)
        self.location.remove()
        with disk_watched(target), write_folder_whole(target) as partial:
            self._fill(Location.of(str(partial)), folder, manifest, on_phase)

    def _fill(self, place: Location, folder: Path, manifest: ObjectManifest, on_phase: OnPhase) -> None:
        place.make_folder()
        # What is there in part must not pass for whole while it is mended.
        place.child(MANIFEST).remove()
        for name in _find_strangers(place.names(), manifest):
            place.child(name).remove()
        reading = _Reading(total_bytes=manifest.num_bytes, phase="store", on_phase=on_phase)
        for name, facts in manifest.files.items():
            with (folder / name).open("rb") as source, place.child(name).filling() as sink:
                sha256 = reading.hash(source, sink)
            if sha256 != facts.sha256:
                raise CheckpointError(str(folder / name), "it changed while it was read", "store it again")
        for path in find_records(folder):
            place.child(path.name).write(_read_record(path))
        on_phase("store its manifest", 0.0)
        place.child(MANIFEST).write(manifest.to_bytes())

    def _damaged(self, problem: str) -> CheckpointError:
        remedy = "put the checkpoint there again: `ensemble models add` mends what is damaged"
        return CheckpointError(f"{self.digest} in {self.location}", f"it is damaged: {problem}", remedy)


def _read_record(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        problem = f"it cannot be read ({error.strerror or error})"
        raise CheckpointError(str(path), problem, "check its rights, or take it away") from error


def _find_strangers(present: Collection[str], manifest: ObjectManifest) -> list[str]:
    """List files that a loader would take though the manifest does not have them."""
    return sorted(name for name in present if is_content(name) and name not in manifest.files)


@dataclass(slots=True, kw_only=True)
class _Reading:
    """Reads files one after another, hashes them, and tells how far that is."""

    total_bytes: int
    phase: str
    on_phase: OnPhase
    num_read: int = 0

    def hash(self, source: IO[bytes], sink: IO[bytes] | None = None) -> str:
        """Read one file, into another one if that is given; gives its SHA-256."""
        digest = hashlib.sha256()
        self._tell()
        while piece := source.read(PIECE_BYTES):
            digest.update(piece)
            if sink is not None:
                sink.write(piece)
            self.num_read += len(piece)
            self._tell()
        return digest.hexdigest()

    def _tell(self) -> None:
        self.on_phase(self.phase, min(1.0, self.num_read / max(1, self.total_bytes)))
