"""Trials on a Ray cluster, one core or GPU each: variants are made and measured wherever there is room."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from ensemble.compression.recipe import Recipe
from ensemble.environment import cache_dir, compress_python, compress_runtime_env
from ensemble.errors import EnsembleError, MemberUnavailableError
from ensemble.files.own_folder import own_folder
from ensemble.variants.adjust_template import Point
from ensemble.variants.trial import TrialTask, run_trial
from ensemble.variants.trial_figures import TrialFigures

MAX_RETRIES = 2
"""A trial whose process or node dies is run again so often."""
_PREFIX = ".trial-"
"""Of the folders in a node's cache that trials work in."""


class RayTrials:
    """Runs trials on the cluster that this process is connected to; a TrialRunner.

    Texts travel with the task, and the source must be what every node can find: on the hub, in a package, in a store,
    or on a path that all of them share. What a trial has made goes with it.
    """

    def __init__(self, task: TrialTask, texts: Sequence[str], *, has_gpus: bool) -> None:
        """Prepare to run trials; ``texts`` are those to calibrate with, none for the package's own."""
        self._task = ray.put((task, tuple(texts)))
        self._run = ray.remote(
            num_cpus=1,
            num_gpus=1 if has_gpus else 0,
            max_retries=MAX_RETRIES,
            runtime_env=compress_runtime_env(),
        )(_run_trial)
        self._point_by_reference: dict[Any, Point] = {}

    def submit(self, point: Point) -> None:
        """Have it tried; see TrialRunner."""
        self._point_by_reference[self._run.remote(self._task, point.recipe)] = point

    def next_ended(self) -> tuple[Point, TrialFigures]:
        """Wait for any of those under way; see TrialRunner."""
        (ended,), _ = ray.wait(list(self._point_by_reference), num_returns=1)
        point = self._point_by_reference.pop(ended)
        try:
            figures: TrialFigures = ray.get(ended)
        except RayTaskError as error:
            if isinstance(error.cause, EnsembleError):
                raise error.cause from error
            raise
        except RayError as error:
            problem = f"its process ended {MAX_RETRIES + 1} times ({type(error).__name__}); was it out of memory?"
            raise MemberUnavailableError(point.name, problem) from error
        return point, figures

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reference in self._point_by_reference:
            ray.cancel(reference, force=True)


def _run_trial(shared: tuple[TrialTask, tuple[str, ...]], recipe: Recipe) -> TrialFigures:
    """Be a trial's process, on any node: its cache is that node's own."""
    task, texts = shared
    checkpoints = cache_dir() / "checkpoints"
    with own_folder(checkpoints, prefix=_PREFIX) as folder:
        paths = []
        for number, text in enumerate(texts):
            # One JSON line keeps every character of it.
            path = folder / f"text-{number}.jsonl"
            path.write_text(f"{json.dumps({'text': text})}\n", "utf-8")
            paths.append(str(path))
        own = replace(
            task,
            calibration_texts=tuple(paths),
            setup=replace(task.setup, cache_dir=checkpoints),
            compress_python=compress_python(),
        )
        return run_trial(own, recipe, folder / "variant")
