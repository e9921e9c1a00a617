"""Trials on a Ray cluster, one core or GPU each: variants are made and measured wherever there is room."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from ensemble.checkpoints.content import digest_folder
from ensemble.compression.recipe import Recipe
from ensemble.environment import cache_dir, compress_python, compress_runtime_env
from ensemble.errors import EnsembleError, MemberUnavailableError
from ensemble.files.own_folder import own_folder
from ensemble.variants.adjust_template import Point
from ensemble.variants.engine_setup import DeviceName
from ensemble.variants.figures import ComparisonFigures
from ensemble.variants.trial import TrialTask, compare_with_original, make_variant, run_trial
from ensemble.variants.trial_figures import TrialFigures

MAX_RETRIES = 2
"""A trial whose process or node dies is run again so often."""
_PREFIX = ".trial-"
"""Of the folders in a node's cache that trials work in."""


def choose_trial_device(wanted: DeviceName) -> DeviceName:
    """Give the device that trials are measured on, on the cluster that this process is connected to.

    ``auto`` is a GPU where any node has one now, else a core.
    """
    if wanted != "auto":
        return wanted
    return "cuda" if has_gpus() else "cpu"


def has_gpus() -> bool:
    """Say whether any of the cluster's nodes has a GPU now; one that scales may get some later."""
    return float(ray.cluster_resources().get("GPU", 0.0)) >= 1.0  # type: ignore[no-untyped-call]


class RayTrials:
    """Runs trials on the cluster that this process is connected to; a TrialRunner.

    A trial gets a GPU of its own where the task's device is ``cuda``, else a core. Texts travel with the task, and the
    source must be what every node can find: on the hub, in a package, in a store, or on a path that all of them share.
    What a trial has made goes with it.
    """

    def __init__(self, task: TrialTask, texts: Sequence[str]) -> None:
        """Prepare to run trials; ``texts`` are those to calibrate with, none for the package's own."""
        self._source = task.source
        self._texts = tuple(texts)
        self._task = ray.put((task, self._texts))
        self._options: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": 1 if task.setup.device == "cuda" else 0,
            "max_retries": MAX_RETRIES,
            "runtime_env": compress_runtime_env(),
        }
        self._run = ray.remote(**self._options)(_run_trial)
        self._point_by_reference: dict[Any, Point] = {}

    def submit(self, point: Point) -> None:
        """Have it tried; see TrialRunner."""
        self._point_by_reference[self._run.remote(self._task, point.recipe)] = point

    def next_ended(self) -> tuple[Point, TrialFigures]:
        """Wait for any of those under way; see TrialRunner."""
        (ended,), _ = ray.wait(list(self._point_by_reference), num_returns=1)
        point = self._point_by_reference.pop(ended)
        figures: TrialFigures = _get(ended, point.name)
        return point, figures

    def compare(self, task: TrialTask, point: Point, folder: Path) -> ComparisonFigures:
        """Measure it where trials are measured, which this machine may have no device for; see TrialRunner.

        There it is made again, since no file travels.
        """
        compare = ray.remote(**self._options)(_compare)
        reference = compare.remote((replace(task, source=self._source), self._texts), point.recipe)
        try:
            figures: ComparisonFigures = _get(reference, point.name)
        finally:
            ray.cancel(reference, force=True)
        original, variant = figures.variants
        missing = variant.missing
        if variant.digest != digest_folder(folder):
            missing += ("it was measured as another machine made it, whose rounding differs from this one's",)
        named = (
            replace(original, reference=task.source),
            replace(variant, reference=str(folder), missing=missing),
        )
        return replace(figures, variants=named)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reference in self._point_by_reference:
            ray.cancel(reference, force=True)


def _get(reference: Any, name: str) -> Any:
    """Wait for what a trial gives, or raise what it met as it would be raised here."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, EnsembleError):
            raise error.cause from error
        raise
    except RayError as error:
        problem = f"its process ended {MAX_RETRIES + 1} times ({type(error).__name__}); was it out of memory?"
        raise MemberUnavailableError(name, problem) from error


def _run_trial(shared: tuple[TrialTask, tuple[str, ...]], recipe: Recipe) -> TrialFigures:
    """Be a trial's process, on any node."""
    with _on_this_node(*shared) as (task, folder):
        return run_trial(task, recipe, folder)


def _compare(shared: tuple[TrialTask, tuple[str, ...]], recipe: Recipe) -> ComparisonFigures:
    """Be the process in which what was chosen is measured again, on any node."""
    with _on_this_node(*shared) as (task, folder):
        make_variant(task, recipe, folder)
        return compare_with_original(task, folder)


@contextmanager
def _on_this_node(task: TrialTask, texts: tuple[str, ...]) -> Iterator[tuple[TrialTask, Path]]:
    """Give the task with this node's own cache and texts, and a place for its variant, which vanishes at the end."""
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
        yield own, folder / "variant"
