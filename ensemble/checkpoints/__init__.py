"""Weights on disk: finding them, converting them once, and loading them into a model.

Importing the package is cheap, for clients that have no models too: what a name needs comes with its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ensemble.checkpoints.load import LoadedCheckpoint, load_checkpoint
    from ensemble.checkpoints.resolve import DEFAULT_CACHE_DIR, resolve_checkpoint

__all__ = ["DEFAULT_CACHE_DIR", "LoadedCheckpoint", "load_checkpoint", "resolve_checkpoint"]

_MODULE_BY_NAME = {
    "DEFAULT_CACHE_DIR": "ensemble.checkpoints.resolve",
    "LoadedCheckpoint": "ensemble.checkpoints.load",
    "load_checkpoint": "ensemble.checkpoints.load",
    "resolve_checkpoint": "ensemble.checkpoints.resolve",
}


def __getattr__(name: str) -> object:
    if name in _MODULE_BY_NAME:
        return getattr(import_module(_MODULE_BY_NAME[name]), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
