"""A batch on its way: shards that are whole or not there, and the output that is made of them in the input's order.

Beside OUTPUT lies the folder OUTPUT.batch: ``manifest.json`` (what the batch is made of), ``rejects.jsonl``,
``shards/`` until the output is there, and then ``done.json`` and ``report.json``. A shard's first line names its run
and its own digest. Nothing is ever appended to, so a kill leaves whole files alone; what was being answered is asked
again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from ensemble.batch.answers import Answer
from ensemble.batch.manifest import BatchManifest, go_on_with, save_batch_manifest
from ensemble.batch.output import open_output
from ensemble.errors import ConfigError
from ensemble.files.location import Location
from ensemble.files.whole_file import disk_watched, remove_partials

FOLDER_SUFFIX = ".batch"
MANIFEST_FILE = "manifest.json"
REJECTS_FILE = "rejects.jsonl"
REPORT_FILE = "report.json"
_DONE_FILE = "done.json"
_LOCK_FILE = "lock"
_SHARDS = "shards"
_BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStore:
    """The files of one batch. Calls block: from an event loop, use a thread."""

    output: Location
    manifest: BatchManifest

    @property
    def folder(self) -> Location:
        """Where everything but the output lies."""
        return folder_of(self.output)

    @property
    def rejects(self) -> Location:
        """Where the lines are told that cannot be used."""
        return self.folder.child(REJECTS_FILE)

    def stored(self) -> frozenset[int]:
        """Name the shards that are there."""
        names = self._shards.names()
        return frozenset(shard for shard in range(self.manifest.num_shards) if _shard_name(shard) in names)

    def write_shard(self, shard: int, answers: Sequence[Answer]) -> None:
        """Keep a shard's answers, in the input's order; it is there for good when this returns."""
        body = b"".join(answer.to_json() for answer in answers)
        self._shards.child(_shard_name(shard)).write(self._heading(shard, body) + body)

    def is_finished(self) -> bool:
        """Say whether the output is there.

        Raises:
            ConfigError: something is there that this run did not write.
        """
        has_output, done = self.output.exists(), self.folder.child(_DONE_FILE)
        if not done.exists():
            if has_output and len(self.stored()) < self.manifest.num_shards:
                raise _taken(self.output)
            return False
        if not has_output:
            # Somebody took it away: it is made anew.
            done.remove()
            return False
        if _read_figures(done).get("sha256") != _digest(self.output):
            raise _taken(self.output)
        # A kill may have come in between.
        self._shards.remove()
        return True

    def write_rejects(self, rejects: IO[bytes]) -> None:
        """Keep the lines that cannot be used; no file is there when there are none."""
        if self.manifest.num_rejects:
            with self.rejects.writing() as stream:
                shutil.copyfileobj(rejects, stream)

    def stored_report(self) -> dict[str, Any]:
        """Give the figures of a finished batch.

        Raises:
            ConfigError: they are damaged, or somebody took them away.
        """
        report = self.folder.child(REPORT_FILE)
        if not report.exists():
            remedy = "put it back, or remove OUTPUT and give the command again: every item is asked anew"
            raise ConfigError(str(report), "it is not there", remedy)
        return _read_figures(report)

    def finish(self, *, on_answer: Callable[[Answer], object], write_report: Callable[[], dict[str, Any]]) -> None:
        """Write the output, every item once and in the input's order, then the report, and let the shards go.

        Raises:
            ConfigError: a shard is damaged, or of another run.
        """
        try:
            self._write_output(on_answer)
        except ConfigError:
            # Where nothing locks, another process may have come to the same end, and let the shards go.
            if self.folder.child(_DONE_FILE).exists() and self.is_finished():
                return
            raise
        self.folder.child(REPORT_FILE).write(f"{json.dumps(write_report(), indent=2)}\n".encode())
        self.folder.child(_DONE_FILE).write(json.dumps({"sha256": _digest(self.output)}).encode())
        self._shards.remove()

    def _write_output(self, on_answer: Callable[[Answer], object]) -> None:
        with self.output.writing() as stream, open_output(stream, self.manifest) as write_rows:
            for shard in range(self.manifest.num_shards):
                answers = self._read_shard(shard)
                for answer in answers:
                    on_answer(answer)
                write_rows([answer.row(self.manifest.columns) for answer in answers])

    def _read_shard(self, shard: int) -> list[Answer]:
        location = self._shards.child(_shard_name(shard))
        heading, newline, body = location.read().partition(b"\n")
        try:
            answers = [Answer.from_json(line) for line in body.splitlines()]
        except (ValueError, KeyError, TypeError):
            answers = []
        is_whole = heading + newline == self._heading(shard, body)
        if not is_whole or len(answers) != self.manifest.num_items_of(shard):
            problem = "it is damaged, or of another run"
            raise ConfigError(str(location), problem, "remove that file: its items are asked again")
        return answers

    def _heading(self, shard: int, body: bytes) -> bytes:
        facts = {"run": self.manifest.run_id, "shard": shard, "sha256": hashlib.sha256(body).hexdigest()}
        return json.dumps(facts).encode() + b"\n"

    @property
    def _shards(self) -> Location:
        return self.folder.child(_SHARDS)


def folder_of(output: Location) -> Location:
    """Name the folder that a batch keeps beside its output."""
    return output.with_suffix(FOLDER_SUFFIX)


def check_output(output: Location) -> None:
    """Refuse at once what is certainly not a batch's own.

    Raises:
        ConfigError: the output exists, and no batch has begun there.
    """
    if output.exists() and not folder_of(output).child(MANIFEST_FILE).exists():
        raise _taken(output)


@contextmanager
def open_batch(output: Location, manifest: BatchManifest) -> Iterator[ShardStore]:
    """Begin a batch, or go on with the one that lies there.

    On a disk, one process at a time may; elsewhere nothing keeps two from doing the same work twice, whose results are
    the same.

    Raises:
        ConfigError: what lies there is of other facts, or another process works on it.
    """
    folder = folder_of(output)
    folder.make_folder()
    with _locked(folder):
        described, shards = folder.child(MANIFEST_FILE), folder.child(_SHARDS)
        # Of a batch that answered nothing, because its spec was wrong, say, there is nothing to go on with.
        has_answers = output.exists() or (shards.exists() and bool(shards.names()))
        if described.exists() and has_answers:
            go_on_with(described, manifest, output=output)
        else:
            save_batch_manifest(manifest, described)
        shards.make_folder()
        if output.is_local:
            remove_partials(output.local_path)
        yield ShardStore(output=output, manifest=manifest)


@contextmanager
def _locked(folder: Location) -> Iterator[None]:
    if not folder.is_local:
        yield
        return
    path = folder.child(_LOCK_FILE).local_path
    with disk_watched(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with disk_watched(path):
            _take_lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, folder: Location) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        problem = "another process works on this batch"
        raise ConfigError(str(folder), problem, "wait for its end, or give another OUTPUT") from error


def _read_figures(location: Location) -> dict[str, Any]:
    """Read one of the JSON objects that the end of a batch writes."""
    try:
        figures = json.loads(location.read())
    except ValueError as error:
        problem = f"it is damaged ({error})"
        raise ConfigError(str(location), problem, "remove OUTPUT and its folder, and give the command again") from error
    return figures if isinstance(figures, dict) else {}


def _shard_name(shard: int) -> str:
    return f"{shard:08d}.jsonl"


def _taken(output: Location) -> ConfigError:
    return ConfigError(str(output), "it exists, and this batch did not write it", "give another OUTPUT, or remove it")


def _digest(location: Location) -> str:
    with location.reading() as stream:
        return _digest_stream(stream)


def _digest_stream(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
