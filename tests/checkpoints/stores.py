"""Stores to test with: a folder of this machine, and one that is behind a URL although it lies here as well."""

from __future__ import annotations

from pathlib import Path

from ensemble.checkpoints.store import CheckpointStore
from tests.checkpoints.tiny_models import build_llama, save

KINDS = ("disk", "remote")
"""The second is a file system that is not this machine's disk, yet outlives the process that wrote to it."""


def url_of(kind: str, folder: Path) -> str:
    """Give the URL of a store in a folder."""
    return str(folder) if kind == "disk" else f"dir::file://{folder}"


def save_checkpoint(folder: Path, *, num_layers: int = 1) -> Path:
    """Write a small checkpoint with a record and with what does not belong into a store."""
    save(build_llama(num_layers=num_layers), folder)
    (folder / "compression.json").write_text(
        '{"steps": [{"type": "prune_layers"}], "perplexity_before": 10.0, "perplexity_after": 12.5}', "utf-8"
    )
    (folder / "training_args.bin").write_bytes(b"pickled")
    return folder


def put(store: CheckpointStore, folder: Path, name: str, *, replace: bool = False) -> str:
    """Store a folder; gives its digest."""
    return store.put(folder, name, family="tiny", source=str(folder), replace=replace).digest


def object_files(folder: Path) -> list[Path]:
    """Find the files of all objects, wherever the store's folder is."""
    return sorted(path for path in folder.rglob("objects/*/*") if path.is_file())


def files_in(folder: Path) -> dict[str, bytes]:
    """Read everything below a folder but locks, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }
