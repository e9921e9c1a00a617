"""What is written down about a compression: how it came about, and what it cost."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import safetensors
import torch
import transformers

from ensemble import __version__
from ensemble.checkpoints.folder import find_weight_files

if TYPE_CHECKING:
    from pathlib import Path

RECORD_NAME = "compression.json"
TIMES_NAME = "compression-times.json"
"""A file of its own: the record's bytes, and with them a digest over all else, are the same in every run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionReport:
    """What was done to which checkpoint, and what it cost.

    Sizes are those of the weights' files. The perplexities are on text that no step has seen; a classifier has none.
    """

    source: str
    source_digest: str
    recipe: dict[str, Any]
    """With all seeds, and every option that was left out."""
    steps: tuple[dict[str, Any], ...]
    """What each step found out, in the recipe's order."""
    source_bytes: int
    output_bytes: int
    perplexity_before: float | None
    perplexity_after: float | None
    calibration: dict[str, Any]
    """The texts with their digests and tokens, the windows made of them, and the digest of the model's own text."""
    calibration_digest: str
    versions: dict[str, str]
    threads: int
    """Torch's: it may split a large sum among them, which is rounded otherwise then."""
    output: str
    seconds: dict[str, Any]
    """How long each part took; this and ``output`` are in no record."""


def write_record(folder: Path, report: CompressionReport) -> None:
    """Write the record into a checkpoint's folder, and the times beside it."""
    record = asdict(report)
    del record["output"]
    seconds = record.pop("seconds")
    _write(folder / RECORD_NAME, record)
    _write(folder / TIMES_NAME, {"seconds": seconds})


def read_report(folder: Path) -> CompressionReport:
    """Read what was written down about a checkpoint.

    Raises:
        ValueError: there is no such record, or it is of another version.
    """
    try:
        record = json.loads((folder / RECORD_NAME).read_text("utf-8"))
        times = json.loads((folder / TIMES_NAME).read_text("utf-8"))
        return CompressionReport(
            **record | {"steps": tuple(record["steps"])}, output=str(folder), seconds=times["seconds"]
        )
    except (OSError, KeyError, TypeError) as error:
        raise ValueError("there is no such record") from error


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def count_weight_bytes(folder: Path) -> int:
    """Give the size of the weights' files."""
    return sum(path.stat().st_size for path in find_weight_files(folder))


def read_versions() -> dict[str, str]:
    """Name the code that has a part in making and measuring variants, and the processor that it is compiled for."""
    return {
        # Torch has kernels for each, which add up in another order.
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "ensemble": __version__,
        "python": platform.python_version(),
        "safetensors": safetensors.__version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
