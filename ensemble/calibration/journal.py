"""The journal of an evaluation: a line a vote, written as soon as it is there; survives a kill."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ensemble.calibration.vote_rows import vote_from_row, vote_to_row
from ensemble.errors import ConfigError
from ensemble.files.whole_file import disk_watched
from ensemble.voting.ballot import Abstention, AbstentionReason, Vote

SYNC_EVERY = 64
"""Lines after which the disk is waited for: what a power cut may take. A killed process loses none."""

ItemKey = tuple[str, str]
"""The item's set and its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLine:
    """One member's vote on one item."""

    key: ItemKey
    vote: Vote


class Journal:
    """Appends to a file that one process at a time may hold; opening it reads what is there."""

    def __init__(self, path: Path, *, members: Sequence[str]) -> None:
        """Open or make the file; a torn last line, from a kill or a full disk, is cut off.

        Raises:
            ConfigError: another process holds it, or a line before the last is damaged or of other members.
        """
        self._path = path
        self._members = tuple(members)
        self._num_unsynced = 0
        self._num_bytes = 0
        self._votes_by_key: dict[ItemKey, dict[str, Vote]] = {}
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def num_whole(self) -> int:
        """Items on which every member's vote is there."""
        return sum(len(votes) == len(self._members) for votes in self._votes_by_key.values())

    def votes_on(self, key: ItemKey) -> tuple[Vote, ...]:
        """Give the votes on an item that are there, in the panel's order."""
        votes = self._votes_by_key.get(key, {})
        return tuple(votes[member] for member in self._members if member in votes)

    def missing_on(self, key: ItemKey) -> tuple[str, ...]:
        """Name the members whose vote on an item is not there, in the panel's order."""
        votes = self._votes_by_key.get(key, {})
        return tuple(member for member in self._members if member not in votes)

    def forget_failures(self) -> int:
        """Take failures that may pass (errors, missed deadlines) as not there, and say how many there were.

        Their lines stay: a later vote of the same member on the same item replaces each.
        """
        num_forgotten = 0
        for votes in self._votes_by_key.values():
            for member in [name for name, vote in votes.items() if _is_passing(vote)]:
                del votes[member]
                num_forgotten += 1
        return num_forgotten

    def append(self, line: JournalLine) -> None:
        """Write a vote; it is safe from a kill of this process when this returns.

        Raises:
            ConfigError: the disk does not take it; the file then ends with the line before.
        """
        self._remember(line)
        fields = {"set": line.key[0], "id": line.key[1], **vote_to_row(line.vote)}
        raw = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with disk_watched(self._path):
            try:
                self._write(raw)
            except OSError:
                # What came after half a line would be lost with it.
                os.ftruncate(self._file, self._num_bytes)
                raise
            self._num_bytes += len(raw)
            self._num_unsynced += 1
            if self._num_unsynced >= SYNC_EVERY:
                self._sync()

    def close(self) -> None:
        """Wait for the disk and let the file go."""
        try:
            with disk_watched(self._path):
                self._sync()
        finally:
            os.close(self._file)

    def _write(self, raw: bytes) -> None:
        rest = memoryview(raw)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def _sync(self) -> None:
        os.fsync(self._file)
        self._num_unsynced = 0

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                str(self._path), "another evaluation is writing it", "wait for its end, or give another --out"
            ) from error

    def _read(self) -> None:
        raw = self._path.read_bytes()
        whole, newline, _ = raw.rpartition(b"\n")
        for number, text in enumerate(whole.split(b"\n") if newline else (), start=1):
            self._read_line(text, number)
        # Lines are appended in one piece: what has no line end was cut off while being written.
        self._num_bytes = len(whole) + len(newline)
        os.ftruncate(self._file, self._num_bytes)

    def _read_line(self, text: bytes, number: int) -> None:
        where = f"{self._path}:{number}"
        try:
            fields: Any = json.loads(text)
            line = JournalLine(key=(fields["set"], fields["id"]), vote=vote_from_row(fields))
            if line.vote.member in self._members:
                self._remember(line)
                return
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                where, f"it is damaged ({error!r})", "remove that line: that member is asked again"
            ) from error
        raise ConfigError(
            where,
            f"it has a vote of {line.vote.member}, but the members are {', '.join(self._members)}",
            "give another --out",
        )

    def _remember(self, line: JournalLine) -> None:
        votes = self._votes_by_key.setdefault(line.key, {})
        if line.vote.member in votes and not _is_passing(votes[line.vote.member]):
            raise ValueError(f"the vote of {line.vote.member} on {line.key} is in the journal already")
        votes[line.vote.member] = line.vote


def _is_passing(vote: Vote) -> bool:
    return isinstance(vote, Abstention) and vote.reason in {AbstentionReason.ERROR, AbstentionReason.DEADLINE}
