"""How large a checkpoint in a remote store is: of its weights only the headers travel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ensemble.checkpoints.measure import MeasuredCheckpoint, measure_tensors
from ensemble.checkpoints.store import CheckpointStore
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ensemble.checkpoints.measure import TensorFacts
    from ensemble.checkpoints.reference import StoreReference
    from ensemble.files.location import Location

_LENGTH_BYTES = 8
"""A safetensors file begins with its header's length."""


def measure_stored(reference: StoreReference) -> MeasuredCheckpoint:
    """Measure a checkpoint where it lies.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        ConfigError: the store cannot be reached.
    """
    stored = CheckpointStore.at(reference.url).find(reference)
    manifest = stored.check_sizes()
    config = _read_json(stored.location.child("config.json"))
    weights = [stored.location.child(name) for name in manifest.files if name.endswith(".safetensors")]
    return measure_tensors(
        (tensor for place in weights for tensor in _read_header(place)), config, where=str(reference)
    )


def _read_header(place: Location) -> Iterator[TensorFacts]:
    length = int.from_bytes(place.read(0, _LENGTH_BYTES), "little")
    header = _read_json(place, _LENGTH_BYTES, _LENGTH_BYTES + length)
    try:
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, tensor["dtype"], tensor["shape"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(str(place), f"its header is damaged ({error!r})", "store it again") from error


def _read_json(place: Location, start: int | None = None, end: int | None = None) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(place.read(start, end))
    except ValueError as error:
        raise CheckpointError(str(place), f"it cannot be read ({error})", "store it again") from error
    return found
