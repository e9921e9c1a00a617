"""What a checkpoint's digest is: by it a spec pins the very bytes that a member runs.

Of a GGUF file it is the file's own SHA-256. Of a folder it is the SHA-256 of what ``sha256sum`` prints about the files
that decide what the model says: weights, configs and tokenizer, those of ``DIGESTED`` that are there, sorted by name.
Anyone can compute it: ``sha256sum FILE... | sha256sum``. Of several checkpoints, or of one and the adapter that is put
on it, it is the SHA-256 of their digests, a line each, in the order given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ensemble.checkpoints.content import PREFIX, digest_folder, hash_files
from ensemble.checkpoints.package_files import find_package_file
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.reference import GgufReference, PackageReference, parse_reference
from ensemble.checkpoints.resolve import DEFAULT_CACHE_DIR, forget_conversion, resolve_checkpoint
from ensemble.errors import CheckpointError


def compute_digest(*references: str, cache_dir: Path = DEFAULT_CACHE_DIR, on_phase: OnPhase = ignore_phase) -> str:
    """Give a checkpoint's digest, or that of several, fetching them first where needed.

    A GGUF file is not even looked into.

    Raises:
        CheckpointError: one is missing, or cannot be read or reached.
    """
    digests = []
    for reference in references:
        file = _find_file(reference)
        digests.append(
            _digest_file(file, on_phase)
            if file
            else _digest_folder(
                reference, resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase), on_phase
            )
        )
    return _join(digests)


def resolve_pinned(
    references: Sequence[str], pinned: str, *, cache_dir: Path = DEFAULT_CACHE_DIR, on_phase: OnPhase = ignore_phase
) -> tuple[Path, ...]:
    """Give each checkpoint's folder, once it is sure that what lies there was pinned.

    A repository is asked for once, and the folder that was hashed is the one that is given. Of a GGUF file the folder
    is that of a conversion of the very bytes that were hashed, whatever the cache takes the file for.

    Raises:
        CheckpointError: they are not what was pinned, or one is missing.
    """
    file_by_reference = {reference: _find_file(reference) for reference in references}
    folder_by_reference, digest_by_reference = {}, {}
    for reference, file in file_by_reference.items():
        if file:
            digest_by_reference[reference] = _digest_file(file, on_phase)
        else:
            folder = resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase)
            folder_by_reference[reference] = folder
            digest_by_reference[reference] = _digest_folder(reference, folder, on_phase)
    found = _join([digest_by_reference[reference] for reference in references])
    if found != pinned:
        raise CheckpointError(
            ", ".join(references),
            f"its digest is {found}, but checkpoint_digest is {pinned}",
            "fetch the pinned one, or pin this one if it is the right one",
        )
    for reference, file in file_by_reference.items():
        if file:
            folder_by_reference[reference] = _convert_pinned(
                reference, digest_by_reference[reference], cache_dir=cache_dir, on_phase=on_phase
            )
    return tuple(folder_by_reference[reference] for reference in references)


def _find_file(reference: str) -> Path | None:
    """Give the GGUF file that a reference names; None for a folder, and for a file that exists in parts only."""
    match parse_reference(reference):
        case GgufReference(file=file):
            return file
        case PackageReference(inside=inside) as package if inside:
            return find_package_file(package)
    return None


def _convert_pinned(reference: str, digest: str, *, cache_dir: Path, on_phase: OnPhase) -> Path:
    """Give the folder of a GGUF file's conversion, converting again where the cache has that of an earlier file."""
    folder = resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase)
    if _read_origin(reference, folder) != digest:
        forget_conversion(reference, cache_dir=cache_dir)
        folder = resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase)
    if _read_origin(reference, folder) != digest:
        raise CheckpointError(reference, "it changed while it was read", "put it there whole, and start again")
    return folder


def _digest_file(file: Path, on_phase: OnPhase) -> str:
    return PREFIX + hash_files([file], on_phase)[0]


def _digest_folder(reference: str, folder: Path, on_phase: OnPhase) -> str:
    if isinstance(parse_reference(reference), PackageReference):
        # The conversion has noted what its parts made together.
        return _read_origin(reference, folder)
    return digest_folder(folder, on_phase=on_phase)


def _join(digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return PREFIX + hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _read_origin(reference: str, folder: Path) -> str:
    """Give the digest of the file that a conversion was made from."""
    try:
        return PREFIX + str(json.loads((folder / "origin.json").read_text("utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            reference,
            f"its conversion in {folder} does not say what it was made from ({error!r})",
            "remove that folder: the next start converts it again",
        ) from error
