"""How large a checkpoint in a remote store is: of its weights only the headers travel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, NonNegativeInt, TypeAdapter, ValidationError
from pydantic_core import from_json

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
_MOST_HEADER_BYTES = 100_000_000
"""MAX_HEADER_SIZE of the safetensors library, which refuses a longer one."""


class _TensorHeader(BaseModel):
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]


_HEADERS = TypeAdapter(dict[str, _TensorHeader])


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
    if length > _MOST_HEADER_BYTES:
        raise _damaged(place, f"it says that its header has {length} bytes, and {_MOST_HEADER_BYTES} are the most")
    header = _read_json(place, _LENGTH_BYTES, _LENGTH_BYTES + length)
    header.pop("__metadata__", None)
    try:
        tensors = _HEADERS.validate_python(header)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"its header is damaged ({'.'.join(map(str, first['loc']))}: {first['msg']})"
        raise _damaged(place, problem) from error
    for name, tensor in tensors.items():
        yield name, tensor.dtype, tensor.shape


def _read_json(place: Location, start: int | None = None, end: int | None = None) -> dict[str, Any]:
    try:
        found = from_json(place.read(start, end))
    except ValueError as error:
        raise _damaged(place, f"it cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise _damaged(place, f"it has a {type(found).__name__} in place of a mapping")
    return found


def _damaged(place: Location, problem: str) -> CheckpointError:
    return CheckpointError(str(place), problem, "store it again")
