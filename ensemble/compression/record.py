"""What is written down about a compression: how it came about, and what it cost."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors
import torch
import transformers

from ensemble import __version__
from ensemble.checkpoints.folder import find_weight_files

if TYPE_CHECKING:
    from pathlib import Path

RECORD_NAME = "compression.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionReport:
    """What was done to which checkpoint, and what it cost; the same facts lie in ``compression.json``.

    Sizes are those of the weights' files. The perplexities are on text that no step has seen; a classifier has none.
    """

    source: str
    source_digest: str
    output: str
    recipe: dict[str, Any]
    steps: tuple[dict[str, Any], ...]
    """What each step found out, in the recipe's order."""
    source_bytes: int
    output_bytes: int
    perplexity_before: float | None
    perplexity_after: float | None
    calibration_digest: str
    versions: dict[str, str]


def read_source_digest(folder: Path) -> str:
    """Give the digest of the GGUF file that a converted folder came from, or else of the weights' files."""
    origin = folder / "origin.json"
    if origin.is_file():
        return f"sha256:{json.loads(origin.read_text('utf-8'))['sha256']}"
    digest = hashlib.sha256()
    for path in find_weight_files(folder):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def count_weight_bytes(folder: Path) -> int:
    """Give the size of the weights' files."""
    return sum(path.stat().st_size for path in find_weight_files(folder))


def read_versions() -> dict[str, str]:
    """Name what the weights' bytes depend on beside their inputs."""
    return {
        "ensemble": __version__,
        "python": platform.python_version(),
        "safetensors": safetensors.__version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
