"""The feedback book on disk: whole or not at all, and known to be whole when it is read.

An ensemble's part has 10,000 requests at most (``MAX_REQUESTS``), and each of them 250 bytes, 19 more a choice (64
count, ``MAX_CHOICES``) and 85 more a member, at most: with names of the spec's full length, 22 MB an ensemble of eight
members whose every audit has 64 choices or more and waits for its feedback. Usual is a tenth of it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat

from ensemble.router.feedback import Audit, Feedback, FeedbackOutcome, FeedbackPolicy
from ensemble.router.feedback_book import AuditDigest, AuditedRequest, EnsembleLedger, FeedbackBook

_log = logging.getLogger(__name__)

MIN_WRITE_PERIOD_S = 0.5
"""Feedbacks that come sooner than this after a write share the next one."""
AUDIT_DELAY_S = 2.0
"""An audit may be lost when the process dies, so it waits this long for company."""
OWN_TIMEOUT_S = 30.0
OWN_POLL_S = 0.05


class _StoredRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    request_id: str
    audited_at_s: FiniteFloat
    is_choice: bool = False
    choices: tuple[str, ...] = ()
    digest_by_member: dict[str, str] | None = None
    """None once the feedback came."""


class _StoredLedger(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shift_by_member: dict[str, FiniteFloat]
    requests: tuple[_StoredRequest, ...]


class _StoredBook(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    ledger_by_ensemble: dict[str, _StoredLedger]


class DurableFeedback:
    """A feedback book whose answers are on disk before they are given. One process owns the file: see ``own_file``.

    Reading it happens here and raises OSError when the folder cannot be used; a damaged file is set aside beside its
    place, and the log says so. The file is replaced as a whole: the new one and the folder are synced first.
    """

    def __init__(
        self, path: Path, *, min_write_period_s: float = MIN_WRITE_PERIOD_S, audit_delay_s: float = AUDIT_DELAY_S
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._min_write_period_s = min_write_period_s
        self._audit_delay_s = audit_delay_s
        self._book = load_book(path)
        self._num_changes = 0
        self._num_written = 0
        self._next_write_s = 0.0
        self._writing = asyncio.Lock()
        self._audit_writer: asyncio.Task[None] | None = None

    async def record_audit(self, audit: Audit) -> None:
        """Keep an audit, and write it down soon.

        Raises:
            InvalidRequestError: a name in it cannot be written down.
        """
        if self._book.record_audit(audit, now_s=time.time()):
            self._num_changes += 1
            if self._audit_writer is None or self._audit_writer.done():
                self._audit_writer = asyncio.create_task(self._write_later(), name="feedback audits")

    async def give(self, feedback: Feedback, policy: FeedbackPolicy) -> FeedbackOutcome:
        """Learn from a feedback, and write it down; what is already known has been written down, too.

        Raises:
            InvalidRequestError: the answer does not fit the request.
            OSError: it counts, but is not on disk.
        """
        outcome = self._book.give(feedback, policy, now_s=time.time())
        self._num_changes += outcome.accepted
        if outcome.was_audited:
            await self.flush()
        return outcome

    async def weights(self, ensemble: str, max_shift: float) -> dict[str, float]:
        """Give the factor of each member's weight."""
        return self._book.factors(ensemble, max_shift=max_shift)

    async def flush(self) -> None:
        """Return when everything up to now is on disk; those who come together share a write.

        A snapshot is all that is made on the event loop. Writing takes half of the time at most.

        Raises:
            OSError: it could not be written; the next call tries again.
        """
        wanted = self._num_changes
        async with self._writing:
            if self._num_written >= wanted:
                return
            await asyncio.sleep(max(0.0, self._next_write_s - time.monotonic()))
            began_s = time.monotonic()
            num_changes, snapshot = self._num_changes, self._book.snapshot()
            try:
                await asyncio.to_thread(_write_book, self._path, snapshot)
            finally:
                now_s = time.monotonic()
                self._next_write_s = now_s + max(self._min_write_period_s, now_s - began_s)
            self._num_written = num_changes

    async def _write_later(self) -> None:
        try:
            # What comes during a write finds this task at work, and starts no other one.
            while self._num_written < self._num_changes:
                await asyncio.sleep(self._audit_delay_s)
                await self.flush()
        except OSError:
            _log.exception("audits are not on disk yet")


def own_file(path: Path, *, timeout_s: float = OWN_TIMEOUT_S) -> int:
    """Wait until no other process owns the file, and own it until the descriptor is closed or this process ends.

    On a file system that knows no locks there is nothing to wait for, and the log says so.

    Raises:
        OSError: the folder cannot be used, or another process still owns the file when the time is over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until_s:
                os.close(lock)
                raise
            time.sleep(OWN_POLL_S)
        except OSError as error:
            _log.warning("%s cannot be locked (%s): let no second process write it", path, error)
            return lock
        else:
            return lock


def load_book(path: Path) -> FeedbackBook:
    """Read a book; an empty one when there is no file, or a damaged one, which is set aside.

    Raises:
        OSError: the file is there and cannot be read or set aside.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return FeedbackBook()
    try:
        return _parse_book(content)
    except ValueError as error:
        aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        path.rename(aside)
        _log.error(
            "the feedback in %s cannot be read (%s): it lies in %s now, and every weight begins where the spec has it",
            path,
            str(error).splitlines()[0],
            aside,
        )
        return FeedbackBook()


def dump_book(book: FeedbackBook) -> bytes:
    """Write a book as JSON under a line with the digest of it; ``_StoredBook`` is the form.

    Piece by piece: another thread would wait for the whole of one long call into the JSON encoder.
    """
    body = "".join(_json_of(book)).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _json_of(book: FeedbackBook) -> Iterator[str]:
    yield '{"version":1,"ledger_by_ensemble":{'
    for n, (ensemble, ledger) in enumerate(book.ledger_by_ensemble.items()):
        yield f'{"," * (n > 0)}{_json(ensemble)}:{{"shift_by_member":{_json(ledger.shift_by_member)},"requests":['
        for m, (request_id, request) in enumerate(ledger.request_by_id.items()):
            yield f"{',' * (m > 0)}{_json(_to_stored(request, request_id))}"
        yield "]}"
    yield "}}"


def _json(thing: object) -> str:
    return json.dumps(thing, separators=(",", ":"), allow_nan=False)


def _write_book(path: Path, book: FeedbackBook) -> None:
    replace_file(path, dump_book(book))


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` into a file so that after a crash it has the old content or the new.

    Raises:
        OSError: the disk does not take it; the old content stays.
    """
    new = path.with_name(f"{path.name}.new")
    with open(new, "wb", opener=_open_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _open_private(path: str, flags: int) -> int:
    """Open a file that its owner alone reads: short answers, which may be about persons, can be guessed by digest."""
    return os.open(path, flags, 0o600)


def _parse_book(content: bytes) -> FeedbackBook:
    digest, _, body = content.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        raise ValueError("its digest is not that of its content")
    stored = _StoredBook.model_validate_json(body)
    return FeedbackBook(
        {
            ensemble: EnsembleLedger(
                shift_by_member=ledger.shift_by_member,
                request_by_id=OrderedDict((request.request_id, _from_stored(request)) for request in ledger.requests),
            )
            for ensemble, ledger in stored.ledger_by_ensemble.items()
        }
    )


def _to_stored(request: AuditedRequest, request_id: str) -> dict[str, object]:
    stored: dict[str, object] = {"request_id": request_id, "audited_at_s": request.audited_at_s}
    if request.audit:
        stored |= {
            "is_choice": request.audit.is_choice,
            "choices": request.audit.choices,
            "digest_by_member": request.audit.digest_by_member,
        }
    return stored


def _from_stored(request: _StoredRequest) -> AuditedRequest:
    audit = (
        AuditDigest(is_choice=request.is_choice, choices=request.choices, digest_by_member=request.digest_by_member)
        if request.digest_by_member is not None
        else None
    )
    return AuditedRequest(audited_at_s=request.audited_at_s, audit=audit)
