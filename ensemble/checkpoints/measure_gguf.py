"""The size of a GGUF file's conversion, and its model's shape, from the file's header."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from gguf import GGUFReader

from ensemble.checkpoints.measure import MeasuredCheckpoint, count_tied_head
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG_KEY_BY_FIELD = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
}
_DAMAGED = (ValueError, KeyError, IndexError, OSError, OverflowError, MemoryError, struct.error)
"""What the reader raises on a damaged file; it has no error of its own."""


def measure_gguf(file: Path) -> MeasuredCheckpoint:
    """Read a GGUF file's header; the conversion makes every weight a float.

    Raises:
        CheckpointError: it is damaged or cut short.
    """
    try:
        reader: Any = GGUFReader(file)
        architecture = reader.fields["general.architecture"].contents()
        config = {
            key: reader.fields[f"{architecture}.{field}"].contents()
            for field, key in _CONFIG_KEY_BY_FIELD.items()
            if f"{architecture}.{field}" in reader.fields
        }
        counts = [(tensor.name, int(tensor.n_elements), len(tensor.shape)) for tensor in reader.tensors]
    except _DAMAGED as error:
        raise CheckpointError(str(file), f"it is damaged or cut short ({error})", "fetch it again") from error
    linear = sum(number for name, number, num_axes in counts if name.startswith("blk.") and num_axes >= 2)
    return MeasuredCheckpoint(
        config={"model_type": architecture, **config},
        elements_by_dtype={"F32": sum(number for _, number, _ in counts)},
        linear_elements=linear,
        tied_head_elements=count_tied_head({name: number for name, number, _ in counts}),
    )
