"""What a compression keeps on the way: the model after each finished step, from which a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.storage import remove_leftovers, write_folder_whole
from ensemble.checkpoints.write import collect_tensors, write_checkpoint
from ensemble.compression.full_disk import full_disk_told
from ensemble.errors import ConfigError
from ensemble.files.locks import drop_lock, find_locked, lock_of, locked_if_free

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

KEPT_DAYS = 7
"""What a killed run left is taken up by the same command within so many days, and then goes."""
_FINDINGS = "findings.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptState:
    """A finished step's model, what all steps so far have found, and how long they took.

    The model is a checkpoint whose floats are float32; the last step may have rounded some of its layers.
    """

    checkpoint: Path
    findings: tuple[dict[str, Any], ...]
    seconds: tuple[float, ...]
    quantization: dict[str, Any] | None
    """The ``quantization_config`` of rounded layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFolder:
    """The states of one compression, named by everything that its result depends on."""

    folder: Path

    def find_last(self) -> KeptState | None:
        """Give the state of the last step that was finished; None at the beginning."""
        states = sorted(self.folder.glob("step-*"))
        if not states:
            return None
        notes = json.loads((states[-1] / _FINDINGS).read_text("utf-8"))
        return KeptState(
            checkpoint=states[-1],
            findings=tuple(notes["findings"]),
            seconds=tuple(notes["seconds"]),
            quantization=notes["quantization"],
        )

    def keep(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        findings: Sequence[dict[str, Any]],
        seconds: Sequence[float],
        quantization: dict[str, Any] | None = None,
    ) -> KeptState:
        """Keep the model after as many steps as there are findings, whole or not at all; earlier ones go.

        So does what the steps kept of their progress.

        Raises:
            ConfigError: the disk is full.
        """
        target = self.folder / f"step-{len(findings):02}"
        earlier = sorted(self.folder.glob("step-*"))
        with full_disk_told(target), write_folder_whole(target) as partial:
            tensors = collect_tensors(model)
            write_checkpoint(partial, tensors, model=model, tokenizer=tokenizer, quantization=quantization)
            notes = {"findings": list(findings), "seconds": list(seconds), "quantization": quantization}
            (partial / _FINDINGS).write_text(json.dumps(notes), "utf-8")
        for folder in (*earlier, *self.folder.glob("progress-*")):
            shutil.rmtree(folder)
        return KeptState(checkpoint=target, findings=tuple(findings), seconds=tuple(seconds), quantization=quantization)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give an empty folder to a step, for as long as it runs."""
        folder = self.folder / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def progress(self, number: int) -> Iterator[Path]:
        """Give a step the folder in which it keeps how far it is; it stays until the step's model is kept."""
        folder = self.folder / f"progress-{number:02}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            with suppress(OSError):
                # There is nothing in it.
                folder.rmdir()

    def count_bytes(self) -> int:
        """Say how much is kept."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def remove(self) -> None:
        """Take everything away, once the result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def place_work(cache_dir: Path) -> Path:
    """Say in which folder all work folders are."""
    return cache_dir.expanduser() / "compressing"


@contextmanager
def open_work_folder(cache_dir: Path, facts: dict[str, Any], *, output: Path) -> Iterator[WorkFolder]:
    """Give the work folder of a compression with these facts, for one process at a time; old ones of others go.

    What killed runs left beside the output goes, too.

    Raises:
        ConfigError: another process is at the same work, or at the same output.
    """
    parent = _open_parent(cache_dir)
    folder = parent / _name(facts)
    with (
        _held(folder, where=str(folder), problem="another process compresses the same checkpoint in the same way"),
        _held(
            parent / f"output-{_name({'output': str(output.resolve())})}",
            where=str(output),
            problem="another process writes it",
        ),
    ):
        remove_leftovers(output)
        for number in range(1, 100):
            remove_leftovers(folder / f"step-{number:02}")
        try:
            yield WorkFolder(folder=folder)
        finally:
            with suppress(OSError):
                # What ended before a step was whole has left it empty.
                folder.rmdir()


@contextmanager
def open_shared_folder(
    cache_dir: Path, what: str, facts: dict[str, Any], *, on_phase: OnPhase = ignore_phase
) -> Iterator[Path]:
    """Give the folder of what all variants of a source share and depends on these facts alone.

    It is given once no other process is at it, and goes as what killed runs left.
    """
    folder = _open_parent(cache_dir) / f"{what}-{_name(facts)}"
    lock = lock_of(folder)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_phase(f"wait for another process that is at the same {what}", 0.0)
        lock.acquire()
    try:
        folder.mkdir(exist_ok=True)
        yield folder
    finally:
        lock.release()


@contextmanager
def _held(folder: Path, *, where: str, problem: str) -> Iterator[None]:
    """Hold a folder's lock; the system frees it when the process ends, however that ends."""
    with locked_if_free(folder) as is_held:
        if not is_held:
            raise ConfigError(where, problem, "wait for it")
        yield


def _open_parent(cache_dir: Path) -> Path:
    parent = place_work(cache_dir)
    with full_disk_told(parent):
        parent.mkdir(parents=True, exist_ok=True)
    _remove_old(parent)
    return parent


def _name(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _remove_old(parent: Path) -> None:
    """Take away what has not been touched for long and belongs to no process."""
    oldest_s = time.time() - KEPT_DAYS * 24 * 3600
    for folder in find_locked(parent):
        # Another user's, or gone meanwhile.
        with suppress(OSError):
            if max(_touched_s(Path(lock_of(folder).lock_file)), _touched_s(folder)) >= oldest_s:
                continue
            with locked_if_free(folder) as is_held:
                if is_held:
                    shutil.rmtree(folder, ignore_errors=True)
                    drop_lock(folder)


def _touched_s(path: Path) -> float:
    """Say when something was last written there: a long step writes for days into files far inside."""
    return max((inside.stat().st_mtime for inside in (path, *path.rglob("*")) if inside.exists()), default=0.0)
