"""The output's two formats: JSON lines, and Parquet with a row group a shard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from ensemble.batch.manifest import BatchManifest

if TYPE_CHECKING:
    import pyarrow

WriteRows = Callable[[Sequence[Mapping[str, Any]]], None]


@contextmanager
def open_output(stream: IO[bytes], manifest: BatchManifest) -> Iterator[WriteRows]:
    """Give what writes a shard's rows; the file is whole at the end."""
    if manifest.output_format == "jsonl":
        yield lambda rows: _write_lines(stream, rows)
        return
    import pyarrow as pa  # noqa: PLC0415 - heavy, and JSON lines need none
    from pyarrow import parquet  # noqa: PLC0415

    schema = _schema(manifest.columns)
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))


def _write_lines(stream: IO[bytes], rows: Sequence[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    stream.write("".join(f"{line}\n" for line in lines).encode())


def _schema(columns: Sequence[str]) -> pyarrow.Schema:
    import pyarrow as pa  # noqa: PLC0415 - as above

    def told(field: str) -> pyarrow.DataType:
        return pa.list_(pa.struct([pa.field("member", pa.string()), pa.field(field, pa.string())]))

    type_by_column = {
        "id": pa.string(),
        "answer": pa.string(),
        "degraded": pa.bool_(),
        "agreement": pa.float64(),
        "withheld": pa.bool_(),
        "abstentions": told("reason"),
        "margin": pa.float64(),
        "confidence": pa.float64(),
        "ballots": told("answer"),
    }
    return pa.schema([pa.field(name, type_by_column[name]) for name in columns])
