"""What trials found, a file each: a search that is begun again goes on where it was, to the same end."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ensemble.errors import ConfigError
from ensemble.files.locks import locked_if_free
from ensemble.files.whole_file import disk_watched, write_whole
from ensemble.variants.adjust_template import Point
from ensemble.variants.trial_figures import TrialFigures

_FOLDER = "trials"


class KeptTrial(BaseModel):
    """A trial's recipe and figures, for people and for the next run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    name: str
    recipe: dict[str, Any]
    figures: TrialFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStore:
    """The trials of one task in a folder; those of other tasks may lie there, too, and are not seen.

    Every method raises ConfigError where the disk refuses.
    """

    folder: Path
    facts: dict[str, Any]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for one search: it takes away every variant there that is not its own.

        Raises:
            ConfigError: another process holds it.
        """
        with ExitStack() as stack:
            with disk_watched(self.folder):
                is_held = stack.enter_context(locked_if_free(self._trials))
            if not is_held:
                problem, remedy = "another process searches there", "wait for it, or give another folder"
                raise ConfigError(str(self.folder), problem, remedy)
            yield

    def find(self, point: Point) -> TrialFigures | None:
        """Give a point's figures, if it was tried."""
        path = self._path(point, ".json")
        if not path.exists():
            return None
        try:
            return KeptTrial.model_validate_json(path.read_bytes()).figures
        except ValidationError as error:
            problem = f"it is no trial's ({error.errors()[0]['msg']})"
            raise ConfigError(str(path), problem, "remove it, and the trial is run again") from error

    def keep(self, point: Point, figures: TrialFigures) -> None:
        """Write a point's figures down in one step."""
        kept = KeptTrial(name=point.name, recipe=point.recipe.model_dump(mode="json"), figures=figures)
        write_whole(self._path(point, ".json"), f"{kept.model_dump_json(indent=2)}\n".encode())

    def checkpoint(self, point: Point) -> Path:
        """Give the folder of a point's variant, while that is kept."""
        return self._path(point, "")

    def drop_checkpoints(self, *, but: Point | None) -> None:
        """Take away the variants that were made here, but for one."""
        kept = self.checkpoint(but) if but else None
        for path in self._trials.iterdir():
            if path.is_dir() and path != kept:
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, point: Point, suffix: str) -> Path:
        document = json.dumps([self.facts, point.recipe.model_dump(mode="json")], sort_keys=True)
        return self._trials / f"{hashlib.sha256(document.encode()).hexdigest()[:24]}{suffix}"

    @property
    def _trials(self) -> Path:
        trials = self.folder / _FOLDER
        with disk_watched(trials):
            trials.mkdir(parents=True, exist_ok=True)
        return trials
