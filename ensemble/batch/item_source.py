"""Reads a batch's rows, from JSON lines or Parquet, without holding them; what cannot be used is told line by line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import IO, Any, Literal

from pydantic import ValidationError

from ensemble.batch.items import ROW_KEYS, BatchItem, item_from_row, item_to_json
from ensemble.errors import ConfigError, InvalidRequestError
from ensemble.files.json_line import explain, parse_object
from ensemble.files.location import Location
from ensemble.router.config import LimitsConfig

LONGEST_LINE_BYTES = 16 * 2**20
_ROWS_AT_A_TIME = 1_024
_ID_DIGEST_BYTES = 16

Format = Literal["jsonl", "parquet"]
_ENDINGS: Mapping[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_PACKED_ENDINGS: Mapping[str, Format] = {f"{ending}.gz": "jsonl" for ending in (".jsonl", ".ndjson")}

ReadRow = Callable[[], Mapping[str, Any]]
"""Gives a line's row, or raises ValueError with what is wrong with the line."""

Shards = Iterator[tuple[BatchItem, ...]]
"""All of a batch's items, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Why a line cannot be used; lines, and Parquet's rows, are counted from 1."""

    line: int
    reason: str

    def to_json(self) -> bytes:
        """Write it as a line of the rejects file."""
        return json.dumps({"line": self.line, "reason": self.reason}, ensure_ascii=False).encode() + b"\n"


class ItemSource:
    """A file of rows, which can be read as often as needed; ids must differ, and the first of two equal ones stands."""

    def __init__(self, location: Location, limits: LimitsConfig) -> None:
        """Prepare to read.

        Raises:
            ConfigError: the name does not say what the file is.
        """
        self.location = location
        self._limits = limits
        self._format = format_of(location, may_be_packed=True)

    def read(self) -> Iterator[BatchItem | Reject]:
        """Give an item or a reject a line, in the file's order. An id takes some 150 bytes of memory until the end.

        Raises:
            ConfigError: the file cannot be read.
        """
        line_by_digest: dict[bytes, int] = {}
        for line, read_row in self._rows():
            try:
                item = item_from_row(read_row(), self._limits)
                _check_id(item.item_id, line, line_by_digest)
            except ValidationError as error:
                yield Reject(line=line, reason=explain(error))
            except InvalidRequestError as error:
                yield Reject(line=line, reason=f"{error.field}: {error.problem}")
            except ValueError as error:
                yield Reject(line=line, reason=str(error))
            else:
                yield item

    def _rows(self) -> Iterator[tuple[int, ReadRow]]:
        if self._format == "jsonl":
            with self.location.reading(compression="infer") as stream:
                yield from _json_rows(stream)
        else:
            with self.location.reading() as stream:
                yield from _parquet_rows(stream, self.location)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a file has: ``digest`` names what its usable items say, in their order, ``shard_digests`` shard by shard."""

    num_items: int
    num_rejects: int
    digest: str
    shard_digests: tuple[bytes, ...]


def scan(source: ItemSource, *, shard_items: int, on_reject: Callable[[Reject], object]) -> Scan:
    """Read a file once, and tell what cannot be used.

    Raises:
        ConfigError: the file cannot be read, or nothing in it can be used.
    """
    num_rejects, first_reason = 0, "it is empty"

    def items() -> Iterator[BatchItem]:
        nonlocal num_rejects, first_reason
        for one in source.read():
            if isinstance(one, Reject):
                num_rejects += 1
                first_reason = f"line {one.line}: {one.reason}" if num_rejects == 1 else first_reason
                on_reject(one)
            else:
                yield one

    num_items, digest, shard_digests = 0, hashlib.sha256(), []
    for shard in _cut(items(), shard_items):
        num_items += len(shard)
        lines = _lines(shard)
        digest.update(lines)
        shard_digests.append(hashlib.sha256(lines).digest())
    if not num_items:
        raise ConfigError(
            str(source.location), f"no line can be used ({first_reason})", 'give lines with "id", "prompt"'
        )
    return Scan(
        num_items=num_items,
        num_rejects=num_rejects,
        digest=digest.hexdigest(),
        shard_digests=tuple(shard_digests),
    )


def shards_of(source: ItemSource, *, shard_items: int, shard_digests: Sequence[bytes]) -> Shards:
    """Cut a scanned file into its shards again; the last may have fewer items.

    Raises:
        ConfigError: instead of the first shard that is not the scanned one.
    """
    items = (one for one in source.read() if isinstance(one, BatchItem))
    for shard, digest in zip_longest(_cut(items, shard_items), shard_digests):
        if shard is None or hashlib.sha256(_lines(shard)).digest() != digest:
            raise ConfigError(
                str(source.location), "it changed while it was read", "put it back, or start anew with another OUTPUT"
            )
        yield shard


def _cut(items: Iterator[BatchItem], shard_items: int) -> Shards:
    while shard := tuple(islice(items, shard_items)):
        yield shard


def _lines(shard: Sequence[BatchItem]) -> bytes:
    return "".join(f"{item_to_json(item)}\n" for item in shard).encode()


def format_of(location: Location, *, may_be_packed: bool = False) -> Format:
    """Say by its name what a file is.

    Raises:
        ConfigError: the name ends in nothing that is known.
    """
    known = {**_ENDINGS, **(_PACKED_ENDINGS if may_be_packed else {})}
    for ending, kind in known.items():
        if location.path.lower().endswith(ending):
            return kind
    raise ConfigError(str(location), "its name does not say what it is", f"let it end in one of {', '.join(known)}")


def _check_id(item_id: str, line: int, line_by_digest: dict[bytes, int]) -> None:
    digest = hashlib.blake2b(item_id.encode(), digest_size=_ID_DIGEST_BYTES).digest()
    first = line_by_digest.setdefault(digest, line)
    if first != line:
        raise ValueError(f"its id {item_id!r} stands on line {first} already")


def _json_rows(stream: IO[bytes]) -> Iterator[tuple[int, ReadRow]]:
    line = 0
    while raw := stream.readline(LONGEST_LINE_BYTES):
        line += 1
        is_cut = len(raw) == LONGEST_LINE_BYTES and not raw.endswith(b"\n")
        rest = raw
        while is_cut and rest and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST_LINE_BYTES)
        yield line, _refusing_long if is_cut else _parsing(raw.removesuffix(b"\n"), is_first=line == 1)


def _parsing(raw: bytes, *, is_first: bool) -> ReadRow:
    return lambda: parse_object(raw, is_first=is_first)


def _refusing_long() -> Mapping[str, Any]:
    raise ValueError(f"it is longer than {LONGEST_LINE_BYTES} bytes")


def _parquet_rows(stream: IO[bytes], location: Location) -> Iterator[tuple[int, ReadRow]]:
    import pyarrow as pa  # noqa: PLC0415 - heavy, and JSON lines need none
    from pyarrow import parquet  # noqa: PLC0415

    line = 0
    try:
        file = parquet.ParquetFile(stream)
        # What nobody asked for is not decoded: it takes time, and may be damaged.
        columns = [name for name in file.schema_arrow.names if name in ROW_KEYS]
        for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=columns):
            for row in batch.to_pylist():
                line += 1
                yield line, row.copy
    except pa.ArrowException as error:
        problem = f"it cannot be read as Parquet ({str(error).splitlines()[0]})"
        raise ConfigError(str(location), problem, "write it again") from error
