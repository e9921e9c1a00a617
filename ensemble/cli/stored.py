"""``store:NAME`` as commands take it: the environment says in which store, unless the reference does."""

from __future__ import annotations

import re

from ensemble.checkpoints.reference import STORE_PREFIX, StoreReference, parse_stored
from ensemble.config import store_url
from ensemble.errors import InvalidRequestError


def with_store(reference: str) -> str:
    """Write which store a reference means; every other reference stays.

    Raises:
        CheckpointError: it begins as one into a store, and is none.
    """
    return str(parse_stored(reference, url=store_url())) if reference.startswith(STORE_PREFIX) else reference


def parse_target(reference: str) -> StoreReference:
    """Read the name under which a checkpoint is to be stored.

    Raises:
        CheckpointError: it is no reference into a store.
        InvalidRequestError: it is a digest, which nobody chooses.
    """
    target = parse_stored(reference, url=store_url())
    if not target.name:
        raise InvalidRequestError("output", "a digest follows from the bytes", f"give {STORE_PREFIX}NAME")
    return target


def family_of(source: str) -> str:
    """Name the family of what is made from a checkpoint: by its file, folder or repository, without what is packed."""
    last = re.split(r"[/\\:]", source.partition("@")[0].rstrip("/\\"))[-1]
    stem = last.removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-").lower()[:63].rstrip("._-") or "unknown"
