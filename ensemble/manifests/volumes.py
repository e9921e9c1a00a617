"""Where pods mount what outlives them."""

from __future__ import annotations

from pathlib import PurePosixPath

MODELS = PurePosixPath("/models")
STATE = PurePosixPath("/var/lib/ensemble")
TLS = PurePosixPath("/etc/ensemble-tls")


def is_below(path: str, folder: PurePosixPath) -> bool:
    """Say whether a path lies inside a mounted folder."""
    return PurePosixPath(path).is_relative_to(folder) and PurePosixPath(path) != folder
