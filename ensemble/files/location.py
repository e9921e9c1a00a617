"""A file or folder that a URL names: this machine's disk, or a store that fsspec knows (s3://, gs://, hdfs://)."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self, cast
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ensemble.errors import ConfigError
from ensemble.files.whole_file import whole_file

_Refusal = (OSError, EOFError, ValueError, RuntimeError, zlib.error)
"""What stores' clients and packed files raise when they cannot be reached, refuse, or are damaged."""
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where something lies. Calls block: from an event loop, use a thread.

    Every method raises ConfigError where the disk or the store refuses.
    """

    filesystem: Any
    path: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Find the store that a URL or a path names.

        Raises:
            ConfigError: fsspec does not know it, or needs a package that is not installed.
        """
        try:
            filesystem, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise ConfigError(url, f"it needs a package ({error})", "install it here and on the cluster") from error
        except _Refusal as error:
            raise ConfigError(url, f"it names no store ({error})", "give a path or an fsspec URL") from error
        return cls(filesystem=filesystem, path=path)

    def __str__(self) -> str:
        return self.path if self.is_local else str(self.filesystem.unstrip_protocol(self.path))

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's disk."""
        return isinstance(self.filesystem, LocalFileSystem)

    @property
    def local_path(self) -> Path:
        """The path, where it is on this machine's disk."""
        return Path(self.path)

    def child(self, name: str) -> Self:
        """Name something in this folder."""
        return replace(self, path=f"{self.path}/{name}")

    def with_suffix(self, suffix: str) -> Self:
        """Name what lies beside it under a longer name."""
        return replace(self, path=self.path + suffix)

    def exists(self) -> bool:
        """Say whether something is there."""
        with self._watched("reached"):
            self.filesystem.invalidate_cache()
            return bool(self.filesystem.exists(self.path))

    def is_folder(self) -> bool:
        """Say whether it is a folder."""
        with self._watched("looked at"):
            return bool(self.filesystem.isdir(self.path))

    def make_folder(self) -> None:
        """Make the folder, if it is not there."""
        with self._watched("made"):
            self.filesystem.makedirs(self.path, exist_ok=True)

    def names(self) -> frozenset[str]:
        """Name what is in the folder; nothing when there is none."""
        with self._watched("listed"):
            self.filesystem.invalidate_cache()
            try:
                paths = self.filesystem.ls(self.path, detail=False)
            except FileNotFoundError:
                return frozenset()
            return frozenset(path.rstrip("/").rpartition("/")[2] for path in paths)

    def remove(self) -> None:
        """Take it away with all that is in it, if it is there."""
        with self._watched("removed"):
            if not self.exists():
                return
            if self.is_local and self.local_path.is_dir():
                # fsspec looks where this process stands, and a job's folder may be gone by now.
                shutil.rmtree(self.path)
            else:
                self.filesystem.rm(self.path, recursive=True)

    def changed_at(self) -> float:
        """Say when it was written last, in seconds since 1970."""
        with self._watched("looked at"):
            modified: datetime = self.filesystem.modified(self.path)
            return modified.replace(tzinfo=modified.tzinfo or UTC).timestamp()

    def size_bytes(self) -> int:
        """Say how long the content is."""
        with self._watched("looked at"):
            return int(self.filesystem.size(self.path))

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        """Give the whole content, or the part from one byte on and before another."""
        with self._watched("read"):
            return cast("bytes", self.filesystem.cat_file(self.path, start=start, end=end))

    @contextmanager
    def reading(self, *, compression: str | None = None) -> Iterator[IO[bytes]]:
        """Give a stream of the content; ``compression`` "infer" unpacks what the name says is packed."""
        with self._watched("read"), self.filesystem.open(self.path, "rb", compression=compression) as stream:
            yield stream

    def write(self, content: bytes) -> None:
        """Replace the content in one step."""
        with self.writing() as stream:
            stream.write(content)

    @contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """Give a stream whose content is there in one step at the end: whoever reads meets all of it or none.

        Elsewhere than on a disk it is written under another name and moved.
        """
        if self.is_local:
            with whole_file(self.local_path) as stream:
                yield stream
            return
        folder, _, name = self.path.rpartition("/")
        # Two machines may have processes of one number.
        partial = f"{folder}/.{name}.{uuid4().hex}"
        with self._watched("written"):
            try:
                with self.filesystem.open(partial, "wb") as stream:
                    yield stream
                self._move(partial)
            except BaseException:
                with suppress(Exception):  # what failed is told, not that its rest stays
                    self.filesystem.rm(partial)
                raise

    @contextmanager
    def filling(self) -> Iterator[IO[bytes]]:
        """Give a stream into the place itself, where nobody looks yet: what is cut off is there in part."""
        with self._watched("written"), self.filesystem.open(self.path, "wb") as stream:
            yield stream

    def _move(self, partial: str) -> None:
        """Move what was written here. A store may refuse that where a file is (HDFS) if the file says the same."""
        try:
            self.filesystem.mv(partial, self.path)
        except _Refusal:
            if not (self.filesystem.exists(self.path) and self._has_same_bytes(partial)):
                raise
            self.filesystem.rm(partial)

    def _has_same_bytes(self, path: str) -> bool:
        with self.filesystem.open(path, "rb") as one, self.filesystem.open(self.path, "rb") as other:
            while block := one.read(_BLOCK_BYTES):
                if other.read(_BLOCK_BYTES) != block:
                    return False
            return not other.read(1)

    @contextmanager
    def _watched(self, done: str) -> Iterator[None]:
        try:
            yield
        except _Refusal as error:
            problem = f"it cannot be {done} ({getattr(error, 'strerror', None) or error})"
            raise ConfigError(str(self), problem, "see to that and give the same command again") from error
