"""An evaluation's folder: items, manifest and journal while it runs, tables of ballots and times at its end.

``manifest.json`` tells the origin, ``items.jsonl`` has the items with their sets, ``journal.jsonl`` the votes as they
came, a line each. ``ballots.parquet`` has one row an item and member, in the items' and the panel's order, and the same
bytes for the same votes; ``timings.parquet`` has their latencies, which differ from run to run. Votes are the same to
the digits that ``vote_rows`` keeps.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ensemble.calibration.item_file import ItemSet, digest_items, item_from_json, item_to_json
from ensemble.calibration.items import ItemVotes
from ensemble.calibration.journal import ItemKey, Journal, JournalLine
from ensemble.calibration.manifest import (
    MANIFEST_FILE,
    EvaluationManifest,
    check_same_origin,
    load_manifest,
    save_manifest,
)
from ensemble.calibration.vote_rows import vote_from_row, vote_to_row
from ensemble.errors import ConfigError
from ensemble.files.whole_file import write_whole
from ensemble.voting.ballot import Vote

if TYPE_CHECKING:
    import pyarrow

ITEMS_FILE = "items.jsonl"
JOURNAL_FILE = "journal.jsonl"
BALLOTS_FILE = "ballots.parquet"
TIMINGS_FILE = "timings.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSet:
    """A data set with every member's vote on each item, in the file's order."""

    name: str
    item_votes: tuple[ItemVotes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvaluation:
    """Everything that was asked and answered."""

    manifest: EvaluationManifest
    sets: tuple[StoredSet, ...]

    def item_votes(self, names: Sequence[str] = ()) -> tuple[ItemVotes, ...]:
        """Give the items of the named sets, or of all, one set after another.

        Raises:
            ConfigError: there is no such set.
        """
        known = {one.name: one for one in self.sets}
        for name in names:
            if name not in known:
                raise ConfigError("--set", f"there is no set {name!r}", f"use one of: {', '.join(known)}")
        chosen = [one for one in self.sets if not names or one.name in names]
        return tuple(item for one in chosen for item in one.item_votes)


class BallotStore:
    """An evaluation that is under way; close it by leaving its context."""

    def __init__(self, folder: Path, journal: Journal, item_sets: Sequence[ItemSet]) -> None:
        self.folder = folder
        self._journal = journal
        self._item_sets = tuple(item_sets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    @property
    def num_stored(self) -> int:
        """Items on which every member's vote is there."""
        return self._journal.num_whole

    def missing(self, key: ItemKey) -> tuple[str, ...]:
        """Name the members whose vote on an item is not there yet, in the panel's order."""
        return self._journal.missing_on(key)

    def forget_failures(self) -> int:
        """Take failures that may pass as votes that are missing, and say how many there were."""
        return self._journal.forget_failures()

    def add(self, key: ItemKey, votes: Iterable[Vote]) -> None:
        """Keep votes on an item: all of them, or those that have come.

        Raises:
            ConfigError: the disk does not take them.
        """
        for vote in votes:
            self._journal.append(JournalLine(key=key, vote=vote))

    def finish(self) -> None:
        """Write the tables; every item must have been answered.

        Raises:
            ConfigError: the disk does not take them.
        """
        rows = [
            {"set": one.name, "item_id": item.item_id, **vote_to_row(vote)}
            for one in self._item_sets
            for item in one.items
            for vote in self._journal.votes_on((one.name, item.item_id))
        ]
        write_whole(self.folder / BALLOTS_FILE, _table_bytes(rows, _ballot_schema()))
        write_whole(self.folder / TIMINGS_FILE, _table_bytes(rows, _timing_schema()))


def open_store(folder: Path, manifest: EvaluationManifest, item_sets: Sequence[ItemSet]) -> BallotStore:
    """Begin an evaluation, or go on with the one that lies there.

    Raises:
        ConfigError: what lies there is of another origin, damaged, or being written by another process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST_FILE).exists():
            check_same_origin(load_manifest(folder), manifest, folder=folder)
        elif any(path.name != ITEMS_FILE and not path.name.startswith(".") for path in folder.iterdir()):
            raise ConfigError(str(folder), "it has files of something else in it", "give an empty or new folder")
        else:
            # The manifest last: with it, the folder is an evaluation.
            write_whole(folder / ITEMS_FILE, _items_bytes(item_sets))
            save_manifest(manifest, folder)
        journal = Journal(folder / JOURNAL_FILE, members=manifest.member_names)
    except OSError as error:
        raise ConfigError(str(folder), f"it cannot be written ({error.strerror})", "give another --out") from error
    return BallotStore(folder, journal, item_sets)


def load_evaluation(folder: Path) -> StoredEvaluation:
    """Read a finished evaluation.

    Raises:
        ConfigError: there is none, it is not finished, or it is damaged.
    """
    manifest = load_manifest(folder)
    if not (folder / BALLOTS_FILE).exists():
        raise ConfigError(str(folder), "its evaluation is not finished", "run the same `ensemble evaluate` again")
    try:
        votes_by_key = _read_votes(folder)
        sets = _read_sets(folder, manifest, votes_by_key)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            str(folder), f"its files are damaged or of two evaluations ({error!r})", "evaluate again elsewhere"
        ) from error
    return StoredEvaluation(manifest=manifest, sets=sets)


def _read_votes(folder: Path) -> dict[ItemKey, list[Vote]]:
    from pyarrow import parquet  # noqa: PLC0415 - heavy

    ballots = parquet.read_table(folder / BALLOTS_FILE, schema=_ballot_schema()).to_pylist()
    timings = parquet.read_table(folder / TIMINGS_FILE, schema=_timing_schema()).to_pylist()
    votes_by_key: dict[ItemKey, list[Vote]] = {}
    for ballot, timing in zip(ballots, timings, strict=True):
        names = ("set", "item_id", "member")
        if any(ballot[name] != timing[name] for name in names):
            raise ValueError(f"the tables differ at {[ballot[name] for name in names]}")
        vote = vote_from_row({**ballot, "latency_s": timing["latency_s"]})
        votes_by_key.setdefault((ballot["set"], ballot["item_id"]), []).append(vote)
    return votes_by_key


def _read_sets(
    folder: Path, manifest: EvaluationManifest, votes_by_key: Mapping[ItemKey, Sequence[Vote]]
) -> tuple[StoredSet, ...]:
    family_by_member = {member.name: member.family for member in manifest.members}
    item_votes_by_set: dict[str, list[ItemVotes]] = {one.name: [] for one in manifest.sets}
    for line in (folder / ITEMS_FILE).read_text("utf-8").removesuffix("\n").split("\n"):
        name, item = json.loads(line)["set"], item_from_json(line)
        votes = tuple(replace(vote, family=family_by_member[vote.member]) for vote in votes_by_key[name, item.item_id])
        if tuple(vote.member for vote in votes) != manifest.member_names:
            raise ValueError(f"item {item.item_id!r} of {name} has votes of other members")
        item_votes_by_set[name].append(ItemVotes(item=item, votes=votes))
    for one in manifest.sets:
        if len(item_votes_by_set[one.name]) != one.num_items:
            raise ValueError(f"{one.name} has {len(item_votes_by_set[one.name])} items instead of {one.num_items}")
        if digest_items(votes.item for votes in item_votes_by_set[one.name]) != one.digest:
            raise ValueError(f"the items of {one.name} are not those that were asked")
    return tuple(StoredSet(name=name, item_votes=tuple(items)) for name, items in item_votes_by_set.items())


def _items_bytes(item_sets: Sequence[ItemSet]) -> bytes:
    lines = (
        json.dumps({"set": one.name, **json.loads(item_to_json(item))}, ensure_ascii=False, separators=(",", ":"))
        for one in item_sets
        for item in one.items
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _table_bytes(rows: Iterable[Mapping[str, Any]], schema: pyarrow.Schema) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - heavy
    from pyarrow import parquet  # noqa: PLC0415

    # Names that are not in the schema are left out, and absent ones are null.
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
    stream = io.BytesIO()
    parquet.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _key_fields() -> list[pyarrow.Field]:
    import pyarrow as pa  # noqa: PLC0415 - heavy

    return [pa.field(name, pa.string(), nullable=False) for name in ("set", "item_id", "member")]


def _ballot_schema() -> pyarrow.Schema:
    import pyarrow as pa  # noqa: PLC0415 - heavy

    return pa.schema(
        [
            *_key_fields(),
            pa.field("choice", pa.string()),
            pa.field("probabilities", pa.list_(pa.float64())),
            pa.field("text", pa.string()),
            pa.field("logprob", pa.float64()),
            pa.field("prompt_tokens", pa.int64()),
            pa.field("completion_tokens", pa.int64()),
            pa.field("abstention", pa.string()),
            pa.field("detail", pa.string()),
        ]
    )


def _timing_schema() -> pyarrow.Schema:
    import pyarrow as pa  # noqa: PLC0415 - heavy

    return pa.schema([*_key_fields(), pa.field("latency_s", pa.float64(), nullable=False)])
