"""What a compression keeps on the way: the model after each finished step, from which a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ensemble.checkpoints.storage import remove_leftovers, write_folder_whole
from ensemble.checkpoints.write import collect_tensors, write_checkpoint
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_FINDINGS = "findings.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptState:
    """A finished step's model, as a float32 checkpoint, and what all steps so far have found."""

    checkpoint: Path
    findings: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFolder:
    """The states of one compression, named by everything that its result depends on."""

    folder: Path

    def find_last(self) -> KeptState | None:
        """Give the state of the last step that was finished; None at the beginning."""
        states = sorted(self.folder.glob("step-*"))
        if not states:
            return None
        findings = tuple(json.loads((states[-1] / _FINDINGS).read_text("utf-8")))
        return KeptState(checkpoint=states[-1], findings=findings)

    def keep(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, findings: Sequence[dict[str, Any]]
    ) -> None:
        """Keep the model after as many steps as there are findings, whole or not at all; earlier ones go."""
        target = self.folder / f"step-{len(findings):02}"
        earlier = sorted(self.folder.glob("step-*"))
        with write_folder_whole(target) as partial:
            write_checkpoint(partial, collect_tensors(model), model=model, tokenizer=tokenizer)
            (partial / _FINDINGS).write_text(json.dumps(list(findings)), "utf-8")
        for state in earlier:
            shutil.rmtree(state)

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

    def remove(self) -> None:
        """Take everything away, once the result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def open_work_folder(cache_dir: Path, facts: dict[str, Any]) -> Iterator[WorkFolder]:
    """Give the work folder of a compression with these facts, for one process at a time.

    Raises:
        ConfigError: another process is at the same work.
    """
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    parent = cache_dir.expanduser() / "compressing"
    parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(parent / f".{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ConfigError(
            str(parent / name), "another process compresses the same checkpoint in the same way", "wait for it"
        ) from error
    try:
        work = WorkFolder(folder=parent / name)
        for number in range(1, 100):
            remove_leftovers(work.folder / f"step-{number:02}")
        yield work
    finally:
        lock.release()
