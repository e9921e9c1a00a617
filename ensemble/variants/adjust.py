"""Prune, rebuild, evaluate, adjust the ratio, and again: until the best variant within a limit is known.

The variant is chosen on one half of the text (and of the labelled items), and measured again on the other half, which
had no part in the choice: the figure reported is not flattered by having been the best of many.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.store_listing import EVALUATION_RECORD
from ensemble.compression.checks import check_places
from ensemble.compression.record import read_report
from ensemble.errors import ConfigError
from ensemble.files.whole_file import write_whole
from ensemble.variants.adjust_search import (
    Aim,
    Limit,
    Measured,
    choose,
    find_nearest,
    next_points,
    pareto_front,
)
from ensemble.variants.adjust_template import Chain, Point
from ensemble.variants.figures import ComparisonFigures
from ensemble.variants.passages import JudgingText
from ensemble.variants.report import evaluation_of
from ensemble.variants.trial import (
    VARIANT,
    TrialTask,
    check_recipes,
    compare_with_original,
    make_variant,
    run_trial,
    sum_up,
)
from ensemble.variants.trial_figures import Measure, TrialFigures
from ensemble.variants.trial_store import TrialStore

MIN_HALF = 4
"""Passages in half of the text: fewer say nothing about how far a figure may be off."""


class TrialRunner(Protocol):
    """Runs trials, here or elsewhere, one or many at once."""

    def submit(self, point: Point) -> None:
        """Have a point tried when its turn comes."""
        ...

    def next_ended(self) -> tuple[Point, TrialFigures]:
        """Wait for the end of any trial that was submitted.

        Raises:
            EnsembleError: a trial could not be run.
        """
        ...

    def compare(self, task: TrialTask, point: Point, folder: Path) -> ComparisonFigures:
        """Measure a point's variant, which lies in a folder here, beside its original: on what trials are measured on.

        Raises:
            EnsembleError: it could not be measured.
        """
        ...


class SerialTrials:
    """Runs trials in this process, in the order in which they were submitted; their variants stay."""

    def __init__(self, task: TrialTask, trials: TrialStore, *, on_phase: OnPhase = ignore_phase) -> None:
        self._task = task
        self._trials = trials
        self._on_phase = on_phase
        self._waiting: deque[Point] = deque()

    def submit(self, point: Point) -> None:
        """Have it tried; see TrialRunner."""
        self._waiting.append(point)

    def next_ended(self) -> tuple[Point, TrialFigures]:
        """Run the next one; see TrialRunner."""
        point = self._waiting.popleft()

        def hear(phase: str, share: float) -> None:
            self._on_phase(f"{point.name}: {phase}", share)

        return point, run_trial(self._task, point.recipe, self._trials.checkpoint(point), on_phase=hear)

    def compare(self, task: TrialTask, point: Point, folder: Path) -> ComparisonFigures:
        """Measure it in this process; see TrialRunner."""
        del point
        return compare_with_original(task, folder, on_phase=self._on_phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustTask:
    """What is searched, and by what the outcome is judged; ``trial`` has all of the text, and is halved here."""

    chains: tuple[Chain, ...]
    limit: Limit
    aim: Aim
    trial: TrialTask
    at_once: int = 1

    @property
    def measure(self) -> Measure:
        """What a loss is of: accuracy where there are items."""
        return "accuracy" if self.trial.items else "perplexity"

    @property
    def points(self) -> tuple[Point, ...]:
        """Everything that may be tried."""
        return tuple(point for chain in self.chains for point in chain.points)

    @property
    def choosing(self) -> TrialTask:
        """The trials by which is chosen: on every other passage and item, from the first on."""
        return _half(self.trial, 0)

    @property
    def confirming(self) -> TrialTask:
        """The measurement of what was chosen: on the passages and items that are left."""
        return _half(self.trial, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """What was found: figures of all trials by name, the choice, and how that fares on what did not choose it."""

    task: AdjustTask
    figures: Mapping[str, TrialFigures]
    chosen: Point | None
    confirmed: TrialFigures | None = None

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The trials as the search saw them, in the order of the recipes."""
        return tuple(
            self.figures[point.name].to_measured(point.name, self.task.measure)
            for point in self.task.points
            if point.name in self.figures
        )

    @property
    def front(self) -> tuple[Measured, ...]:
        """The trials that no other betters in both."""
        return pareto_front(self.measured, self.task.aim)

    @property
    def nearest(self) -> Measured | None:
        """The trial that comes nearest to the limit, for when none keeps it."""
        return find_nearest(self.measured, self.task.limit)


class OnTrial(Protocol):
    """Hears each trial that has ended, and whether an earlier run had ended it."""

    def __call__(self, point: Point, figures: TrialFigures, *, is_kept: bool) -> None:
        """Hear one."""
        ...


def ignore_trial(point: Point, figures: TrialFigures, *, is_kept: bool) -> None:
    """Be the callback of a caller that does not want to know."""
    del point, figures, is_kept


def check_adjustment(task: AdjustTask, output: Path) -> None:
    """Refuse what would make figures wrong or a trial impossible, before the long work.

    Raises:
        ConfigError: there is too little to judge by, it is what the recipes learn from, a recipe's steps cannot be
            taken, or the output is something that none of them makes, or cannot be made.
    """
    if task.trial.speed is None and (task.aim != "size" or task.limit.max_loss is None):
        raise ConfigError("--no-speed", "a speed is wanted", "give it with --prefer size and --max-loss alone")
    if len(task.confirming.text.passages) < MIN_HALF:
        problem = f"it has {len(task.trial.text.passages)} passages, and {2 * MIN_HALF} are needed: half of them choose"
        raise ConfigError("--text", problem, "give more text, or none to use the package's own")
    if task.trial.items and not task.confirming.items:
        raise ConfigError("--items", "there is one item, and half of them judge", "give more")
    if set(task.trial.text.digests) & set(task.trial.calibration_digests):
        problem = f"the recipes would learn from the text that they are judged by ({task.trial.text.name})"
        raise ConfigError("--text", problem, "give text that no recipe sees, or none to use the package's own")
    check_recipes(task.trial, {point.name: point.recipe for point in task.points})
    check_places([output])
    if output.exists():
        _check_output(output, task)


def search_variants(
    task: AdjustTask,
    runner: TrialRunner,
    trials: TrialStore,
    *,
    on_trial: OnTrial = ignore_trial,
) -> Adjustment:
    """Try what is needed to know the best variant within the limit; what earlier runs tried counts.

    Raises:
        EnsembleError: a trial could not be run.
    """
    figures: dict[str, TrialFigures] = {}
    running: dict[str, Point] = {}
    while True:
        measured = {name: found.to_measured(name, task.measure) for name, found in figures.items()}
        wanted = [
            point
            for chain in task.chains
            for point in next_points(chain, measured, task.limit, at_once=task.at_once)
            if point.name not in running
        ]
        kept = [(point, found) for point in wanted if (found := trials.find(point)) is not None]
        for point, found in kept:
            figures[point.name] = found
            on_trial(point, found, is_kept=True)
        if kept:
            continue
        for point in wanted:
            runner.submit(point)
            running[point.name] = point
        if not running:
            return _conclude(task, figures)
        point, found = runner.next_ended()
        trials.keep(point, found)
        figures[point.name] = found
        del running[point.name]
        trials.drop_checkpoints(but=_conclude(task, figures).chosen)
        on_trial(point, found, is_kept=False)


def finish_choice(
    adjustment: Adjustment,
    output: Path,
    runner: TrialRunner,
    trials: TrialStore,
    *,
    on_phase: OnPhase = ignore_phase,
) -> Adjustment:
    """Write the chosen variant into a folder, and measure it on what did not choose it.

    Raises:
        ConfigError: the folder holds something else, or the disk is full.
        MemberError: an engine failed.
    """
    chosen, task = adjustment.chosen, adjustment.task
    if chosen is None:
        return adjustment
    if not output.exists():
        # Another file system, or a variant that was made on another machine: then it is made again.
        with suppress(OSError):
            output.parent.mkdir(parents=True, exist_ok=True)
            trials.checkpoint(chosen).rename(output)
    make_variant(task.trial, chosen.recipe, output, on_phase=on_phase)
    judged = TrialStore(folder=trials.folder, facts=task.confirming.facts())
    confirmed = judged.find(chosen)
    # Made again, the variant has no evaluation, though it was measured before.
    if confirmed is None or not (output / EVALUATION_RECORD).is_file():
        comparison = runner.compare(task.confirming, chosen, output)
        evaluation = json.dumps(evaluation_of(comparison, VARIANT), ensure_ascii=False, indent=2, allow_nan=False)
        write_whole(output / EVALUATION_RECORD, f"{evaluation}\n".encode())
        confirmed = sum_up(task.confirming, comparison)
        judged.keep(chosen, confirmed)
    trials.drop_checkpoints(but=None)
    return replace(adjustment, confirmed=confirmed)


def _check_output(output: Path, task: AdjustTask) -> None:
    """See that what is there may be what an earlier run of the same search has chosen."""
    try:
        is_own = read_report(output).recipe in [point.recipe.model_dump(mode="json") for point in task.points]
    except ValueError:
        is_own = False
    if not is_own:
        raise ConfigError(str(output), "it exists already", "choose another folder, or remove it")


def _conclude(task: AdjustTask, figures: Mapping[str, TrialFigures]) -> Adjustment:
    point_by_name = {point.name: point for point in task.points}
    measured = [found.to_measured(name, task.measure) for name, found in figures.items()]
    best = choose(measured, task.limit, task.aim)
    return Adjustment(task=task, figures=dict(figures), chosen=point_by_name[best.name] if best else None)


def _half(task: TrialTask, first: int) -> TrialTask:
    text = JudgingText(passages=task.text.passages[first::2], digests=task.text.digests, name=task.text.name)
    return replace(task, text=text, items=task.items[first::2])
