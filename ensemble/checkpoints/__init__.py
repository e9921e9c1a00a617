"""Weights on disk: finding them, converting them once, and loading them into a model.

Importing the package is cheap: torch and transformers come with the first use of a name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ensemble.checkpoints.resolve import DEFAULT_CACHE_DIR, resolve_checkpoint

if TYPE_CHECKING:
    from ensemble.checkpoints.load import LoadedCheckpoint, load_checkpoint

__all__ = ["DEFAULT_CACHE_DIR", "LoadedCheckpoint", "load_checkpoint", "resolve_checkpoint"]


def __getattr__(name: str) -> object:
    if name in {"LoadedCheckpoint", "load_checkpoint"}:
        return getattr(import_module("ensemble.checkpoints.load"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
