"""What a checkpoint's reference can say, and how it is read.

============================================ ==========================================================
``some/folder``                              a local folder with safetensors
``some/file.gguf``                           a local GGUF file
``package:module/path/inside.gguf``          a GGUF file inside an installed Python package
``package:module``                           a GGUF file shipped in parts: the package's own
                                             ``assemble(path)`` joins and checks them
``org/name`` or ``org/name@revision``        a Hugging Face repository (commit, branch or tag)
``store:NAME@URL``                           a checkpoint in a store, which is a folder or an fsspec URL
``store:sha256:DIGEST@URL``                  the same by its digest, whatever its name means later
============================================ ==========================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ensemble.errors import CheckpointError

PACKAGE_PREFIX = "package:"
STORE_PREFIX = "store:"
_REPOSITORY = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
NAME_RULE = "letters, digits, dot, dash, underscore; the first a letter or digit; at most 127"
"""What a name in a store is made of."""
DIGEST_CHARACTERS = len("sha256:") + 12
"""Of a digest that has to serve as a name, or is shown to a person."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}"
_STORED = re.compile(rf"((?P<digest>sha256:[0-9a-f]{{64}})|(?P<name>{_NAME}))(@(?P<url>.+))?")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReference:
    """A local folder with safetensors."""

    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufReference:
    """A local GGUF file."""

    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageReference:
    """A GGUF file inside an installed package; ``inside`` empty means that the package assembles it."""

    module: str
    inside: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HubReference:
    """A repository on the Hugging Face hub; ``revision`` None is its default branch."""

    repository: str
    revision: str | None


def is_name(text: str) -> bool:
    """Say whether a checkpoint in a store can be named so."""
    return re.fullmatch(_NAME, text) is not None


def name_file(name: str) -> str:
    """Give the place in a store that says what a name means."""
    return f"names/{name}.json"


def object_folder(digest: str) -> str:
    """Give the place in a store of the checkpoint with a digest."""
    return f"objects/{digest.replace(':', '-', 1)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReference:
    """A checkpoint in the store at ``url``, by its name or by its digest; the other one is empty."""

    url: str
    name: str = ""
    digest: str = ""

    @property
    def path(self) -> str:
        """Where it lies: the file that says what its name means, or its folder."""
        return f"{self.url}/{name_file(self.name) if self.name else object_folder(self.digest)}"

    def __str__(self) -> str:
        return f"{STORE_PREFIX}{self.name or self.digest}@{self.url}"


Reference = FolderReference | GgufReference | PackageReference | HubReference | StoreReference


def parse_reference(reference: str) -> Reference:
    """Read a checkpoint's reference; a path that exists wins over a repository of the same spelling.

    Raises:
        CheckpointError: nothing exists under that path and it is no repository's name either.
    """
    if reference.startswith(PACKAGE_PREFIX):
        return _parse_package(reference)
    if reference.startswith(STORE_PREFIX):
        return parse_stored(reference)
    try:
        return _parse_path(reference) or _parse_repository(reference)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            reference, f"it cannot be looked up as a path ({error})", "check the path and your rights to it"
        ) from error


def parse_stored(reference: str, *, url: str = "") -> StoreReference:
    """Read a reference into a store; ``url`` is that of the store where the reference itself names none.

    Raises:
        CheckpointError: it is none, or names no store.
    """
    match = _STORED.fullmatch(reference.removeprefix(STORE_PREFIX)) if reference.startswith(STORE_PREFIX) else None
    if match is None:
        raise CheckpointError(
            reference,
            f"it is neither a name in a store ({NAME_RULE}) nor sha256: with 64 digits",
            "write store:NAME or store:sha256:DIGEST, either with @URL",
        )
    if not (match["url"] or url):
        raise CheckpointError(reference, "it does not say which store", "write store:NAME@URL")
    return StoreReference(url=match["url"] or url, name=match["name"] or "", digest=match["digest"] or "")


def _parse_path(reference: str) -> Reference | None:
    path = Path(reference).expanduser()
    # An empty path would be the working directory.
    if reference and path.is_dir():
        return FolderReference(folder=path)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise CheckpointError(reference, "there is no such GGUF file", "check the path")
        return GgufReference(file=path)
    if path.is_file():
        raise CheckpointError(reference, "it is a file but not a GGUF file", "name its folder, or a .gguf file")
    return None


def _parse_repository(reference: str) -> HubReference:
    match = _REPOSITORY.fullmatch(reference)
    if match is None or reference.startswith("."):
        raise CheckpointError(
            reference,
            "there is no such folder or file, and it is not a Hugging Face id",
            "give a folder, a .gguf file, package:module/file.gguf, store:NAME, or org/name",
        )
    return HubReference(repository=match["repository"], revision=match["revision"])


def _parse_package(reference: str) -> PackageReference:
    module, _, inside = reference.removeprefix(PACKAGE_PREFIX).partition("/")
    if not _MODULE.fullmatch(module):
        raise CheckpointError(reference, f"{module!r} is not a Python module's name", "write package:module/file.gguf")
    if inside and (not inside.endswith(".gguf") or ".." in Path(inside).parts or Path(inside).is_absolute()):
        raise CheckpointError(
            reference, f"{inside!r} is not a GGUF file inside the package", "write package:module/file.gguf"
        )
    return PackageReference(module=module, inside=inside)
