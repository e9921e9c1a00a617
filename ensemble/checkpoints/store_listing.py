"""What a store has, with what the checkpoints' own records tell about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ensemble.checkpoints.store import CheckpointStore, StoredName
from ensemble.checkpoints.store_object import StoreObject
from ensemble.errors import CheckpointError
from ensemble.files.location import Location

COMPRESSION_RECORD = "compression.json"
EVALUATION_RECORD = "evaluation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """One name in a store, and what it leads to.

    ``compression`` is how it was made, ``evaluation`` how it fared against the original; None where nobody wrote it
    down. ``problem`` says what is wrong with the checkpoint; empty where nothing is, by its sizes.
    """

    name: str
    digest: str
    family: str
    source: str
    stored_at: datetime
    num_bytes: int
    compression: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    problem: str

    @property
    def steps(self) -> tuple[str, ...]:
        """The types of the steps that made it, in order."""
        steps = (self.compression or {}).get("steps")
        return tuple(str(step.get("type")) for step in steps if isinstance(step, dict)) if steps else ()

    @property
    def perplexities(self) -> tuple[float, float] | None:
        """Those before and after, on text that no step has seen; None where they were not measured."""
        found = [(self.compression or {}).get(f"perplexity_{when}") for when in ("before", "after")]
        before, after = (float(one) if isinstance(one, int | float) else None for one in found)
        return None if before is None or after is None else (before, after)


def list_models(store: CheckpointStore) -> tuple[StoredModel, ...]:
    """List a store's names in order; what is damaged is listed with its problem.

    Raises:
        ConfigError: the store cannot be read, or a name is damaged.
    """
    return tuple(_describe(store, store.look_up(name)) for name in store.names())


def _describe(store: CheckpointStore, stored: StoredName) -> StoredModel:
    place = store.object(stored.digest)
    num_bytes, problem = _check(place)
    present = place.location.names()
    compression, evaluation = (
        _read_record(place.location.child(name)) if name in present else None
        for name in (COMPRESSION_RECORD, EVALUATION_RECORD)
    )
    return StoredModel(
        name=stored.name,
        digest=stored.digest,
        family=stored.family,
        source=stored.source,
        stored_at=stored.stored_at,
        num_bytes=num_bytes,
        compression=compression,
        evaluation=evaluation,
        problem=problem,
    )


def _check(place: StoreObject) -> tuple[int, str]:
    try:
        return place.check_sizes().num_bytes, ""
    except CheckpointError as error:
        return 0, error.problem


def _read_record(place: Location) -> dict[str, Any] | None:
    try:
        record = json.loads(place.read())
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
