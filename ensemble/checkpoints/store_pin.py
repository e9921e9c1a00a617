"""What a name in a store means at this moment."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from ensemble.checkpoints.reference import STORE_PREFIX, parse_stored
from ensemble.errors import ConfigError


def pin_stored(reference: str) -> str:
    """Write the digest in place of a name in a store; every other reference stays.

    So does one whose store cannot be asked here, since only the members' nodes may reach it; they say what is wrong.
    """
    if not reference.startswith(STORE_PREFIX):
        return reference
    stored = parse_stored(reference)
    if stored.digest:
        return reference
    store = import_module("ensemble.checkpoints.store").CheckpointStore
    try:
        digest: str = store.at(stored.url).look_up(stored.name).digest
    except ConfigError:
        return reference
    return str(replace(stored, name="", digest=digest))
