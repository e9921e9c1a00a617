"""Which files of a checkpoint's folder decide what the model says, and the digest that they make together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ensemble.checkpoints.folder import find_weight_files
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.errors import CheckpointError

PREFIX = "sha256:"
DIGESTED = (
    *("config.json", "generation_config.json", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
"""The files that count beside the weights."""
PIECE_BYTES = 1 << 24
"""What is read at once."""
_ADAPTED = ("adapter_config.json", "adapter_model.safetensors")
"""Of an adapter, everything that counts; a folder with the first has no config of its own."""


def find_content(folder: Path) -> list[Path]:
    """List the files that count, by name: weights, configs and tokenizer, or those of an adapter.

    Raises:
        CheckpointError: it has no weights, or pickled ones.
    """
    if (folder / _ADAPTED[0]).is_file() and not (folder / "config.json").exists():
        return [folder / name for name in sorted(_ADAPTED)]
    files = [*find_weight_files(folder), *(folder / name for name in DIGESTED if (folder / name).is_file())]
    return sorted(files, key=lambda path: path.name)


def is_content(name: str) -> bool:
    """Say by a file's name whether it would count: another one in the folder may change what a loader makes of it."""
    return name in DIGESTED or name in _ADAPTED or name.endswith(".safetensors")


def digest_content(sha256_by_name: Mapping[str, str]) -> str:
    """Give the digest of a folder from the SHA-256 of each file that counts: that of sha256sum's lines, by name."""
    lines = [f"{sha256}  {name}\n" for name, sha256 in sorted(sha256_by_name.items())]
    return PREFIX + hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_folder(folder: Path, *, on_phase: OnPhase = ignore_phase) -> str:
    """Give the digest of a folder as it lies there.

    Raises:
        CheckpointError: it has no weights, or pickled ones, or a file cannot be read.
    """
    files = find_content(folder)
    return digest_content(dict(zip((path.name for path in files), hash_files(files, on_phase), strict=True)))


def outline_folder(folder: Path) -> str:
    """Tell folders apart without reading weights: by the weights' names and sizes, and by all else that counts.

    Raises:
        CheckpointError: as ``digest_folder``.
    """
    files = find_content(folder)
    small = [path for path in files if path.name in DIGESTED]
    facts_by_name = {path.name: str(path.stat().st_size) for path in files}
    facts_by_name |= dict(zip((path.name for path in small), hash_files(small, ignore_phase), strict=True))
    return digest_content(facts_by_name)


def hash_files(files: Sequence[Path], on_phase: OnPhase) -> list[str]:
    """Give each file's SHA-256.

    Raises:
        CheckpointError: one cannot be read.
    """
    try:
        total_bytes = max(1, sum(path.stat().st_size for path in files))
        digests, num_read = [], 0
        for path in files:
            digest = hashlib.sha256()
            with path.open("rb") as stream:
                while piece := stream.read(PIECE_BYTES):
                    digest.update(piece)
                    num_read += len(piece)
                    on_phase("check digest", min(1.0, num_read / total_bytes))
            digests.append(digest.hexdigest())
    except OSError as error:
        where = str(error.filename or files[0])
        raise CheckpointError(where, f"it cannot be read ({error.strerror})", "check your rights to it") from error
    return digests
