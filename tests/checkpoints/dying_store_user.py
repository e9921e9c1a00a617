"""A program that stores or fetches a checkpoint and kills itself on the way: MODE URL FOLDER STOP."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ensemble.checkpoints.resolve import resolve_checkpoint
from ensemble.checkpoints.store import CheckpointStore

_, mode, url, folder, stop = sys.argv
num_told = 0


def hear(_name: str, _share: float) -> None:
    """Die once so many phases were told."""
    global num_told  # noqa: PLW0603 - the program's own count
    num_told += 1
    if num_told > int(stop):
        os.kill(os.getpid(), signal.SIGKILL)


if mode == "put":
    CheckpointStore.at(url).put(Path(folder), "tiny", family="tiny", source="x", on_phase=hear)
else:
    resolve_checkpoint(f"store:tiny@{url}", cache_dir=Path(folder), on_phase=hear)
