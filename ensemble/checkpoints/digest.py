"""What a checkpoint's digest is: by it a spec pins the very bytes that a member runs.

Of a GGUF file it is the file's own SHA-256. Of a folder it is the SHA-256 of what ``sha256sum`` prints about the files
that decide what the model says: weights, configs and tokenizer, those of ``DIGESTED`` that are there, sorted by name.
Anyone can compute it: ``sha256sum FILE... | sha256sum``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ensemble.checkpoints.folder import find_weight_files
from ensemble.checkpoints.package_files import find_package_file
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.reference import GgufReference, PackageReference, parse_reference
from ensemble.checkpoints.resolve import DEFAULT_CACHE_DIR, resolve_checkpoint
from ensemble.errors import CheckpointError

PREFIX = "sha256:"
DIGESTED = (
    *("config.json", "generation_config.json", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
"""The files that count beside the weights."""
_PIECE_BYTES = 1 << 24


def compute_digest(reference: str, *, cache_dir: Path = DEFAULT_CACHE_DIR, on_phase: OnPhase = ignore_phase) -> str:
    """Give a checkpoint's digest, fetching it first where needed; a GGUF file is not even looked into.

    Raises:
        CheckpointError: it is missing, or cannot be read or reached.
    """
    match parse_reference(reference):
        case GgufReference(file=file):
            return PREFIX + _hash_files([file], on_phase)[0]
        case PackageReference(inside="") as package:
            # It exists in parts only, and the conversion has noted what they made together.
            folder = resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase)
            return PREFIX + _read_origin(folder, package)
        case PackageReference() as package:
            return PREFIX + _hash_files([find_package_file(package)], on_phase)[0]
    folder = resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase)
    files = [*find_weight_files(folder), *(folder / name for name in DIGESTED if (folder / name).is_file())]
    files.sort(key=lambda path: path.name)
    lines = [f"{digest}  {path.name}\n" for digest, path in zip(_hash_files(files, on_phase), files, strict=True)]
    return PREFIX + hashlib.sha256("".join(lines).encode()).hexdigest()


def check_digest(
    reference: str, pinned: str, *, cache_dir: Path = DEFAULT_CACHE_DIR, on_phase: OnPhase = ignore_phase
) -> None:
    """Check that a checkpoint is the one that was pinned.

    Raises:
        CheckpointError: it is not, or it is missing.
    """
    found = compute_digest(reference, cache_dir=cache_dir, on_phase=on_phase)
    if found != pinned:
        raise CheckpointError(
            reference,
            f"its digest is {found}, but checkpoint_digest is {pinned}",
            "fetch the pinned one, or pin this one if it is the right one",
        )


def _hash_files(files: list[Path], on_phase: OnPhase) -> list[str]:
    """Give each file's SHA-256."""
    try:
        total_bytes = max(1, sum(path.stat().st_size for path in files))
        digests, num_read = [], 0
        for path in files:
            digest = hashlib.sha256()
            with path.open("rb") as stream:
                while piece := stream.read(_PIECE_BYTES):
                    digest.update(piece)
                    num_read += len(piece)
                    on_phase("check digest", min(1.0, num_read / total_bytes))
            digests.append(digest.hexdigest())
    except OSError as error:
        where = str(error.filename or files[0])
        raise CheckpointError(where, f"it cannot be read ({error.strerror})", "check your rights to it") from error
    return digests


def _read_origin(folder: Path, package: PackageReference) -> str:
    try:
        return str(json.loads((folder / "origin.json").read_text("utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"package:{package.module}",
            f"its conversion in {folder} does not say what it was made from ({error!r})",
            "remove that folder: the next start converts it again",
        ) from error
