"""From a checkpoint and recipes to smaller checkpoints, each with a record of how it came about."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble.checkpoints import DEFAULT_CACHE_DIR
from ensemble.compression.calibration_sources import CalibrationSource, load_calibration_sources
from ensemble.compression.calibration_text import CalibrationText, split_calibration_text
from ensemble.compression.checks import check_outputs, check_places, check_steps, fit_calibration
from ensemble.compression.full_disk import check_room
from ensemble.compression.own_text import PASSES_OF_A_WRITTEN_WINDOW, write_own_text
from ensemble.compression.source import Source, open_source
from ensemble.compression.standing import Clock, OnStanding, Part, Standing, ignore_standing
from ensemble.compression.variant_run import VariantRun, measure, plan_perplexity
from ensemble.compression.work_folder import WorkFolder, open_shared_folder, open_work_folder, place_work
from ensemble.files.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel

    from ensemble.compression.calibration_options import CalibrationOptions
    from ensemble.compression.recipe import Recipe
    from ensemble.compression.record import CompressionReport
    from ensemble.compression.remake import Remake

_PERPLEXITY_FILE = "before.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A checkpoint to make: how, and into which folder."""

    recipe: Recipe
    output: Path
    remake: Remake | None = None
    """Of the record that it is to be made again from; what is given must be what that names."""


def compress(
    source: str,
    recipe: Recipe,
    output: Path,
    *,
    calibration_texts: Sequence[str | Path] = (),
    cache_dir: Path = DEFAULT_CACHE_DIR,
    on_progress: OnStanding = ignore_standing,
) -> CompressionReport:
    """Make one variant; ``make_variants`` says what holds."""
    (report,) = make_variants(
        source,
        [Variant(recipe=recipe, output=output)],
        calibration_texts=calibration_texts,
        cache_dir=cache_dir,
        on_progress=on_progress,
    )
    return report


def make_variants(
    source: str | Source,
    variants: Sequence[Variant],
    *,
    calibration_texts: Sequence[str | Path] = (),
    cache_dir: Path = DEFAULT_CACHE_DIR,
    on_progress: OnStanding = ignore_standing,
    allow_compressed: bool = False,
) -> tuple[CompressionReport, ...]:
    """Take each recipe's steps in order and write each result as a whole folder or not at all.

    A source that is open already is taken as it is, and ``allow_compressed`` was its opener's to say.

    The same source, recipe and texts give the same bytes, times apart, on the same kind of machine with as many of
    torch's threads. What a killed run with so many had finished is taken up again, and an output that is there already,
    made of the same, stays as it is.

    Raises:
        ConfigError: an output is something else, or a recipe, the source or a text cannot be used, or a disk is full;
            found before long work where it can be.
        CheckpointError: the source cannot be loaded.
    """
    check_outputs([variant.output for variant in variants])
    check_places([place_work(cache_dir) / "new"])
    texts = load_calibration_sources(calibration_texts)

    def tell(phase: str, share: float) -> None:
        on_progress(Standing(variant="", part="source", phase=phase, share=share, left_s=None))

    if isinstance(source, str):
        source = open_source(source, cache_dir=cache_dir, allow_compressed=allow_compressed, on_phase=tell)
    runs = tuple(_plan(source, variant, texts) for variant in variants)
    return _Session(source=source, runs=runs, cache_dir=cache_dir, on_progress=on_progress).make()


def _plan(source: Source, variant: Variant, texts: Sequence[CalibrationSource]) -> VariantRun:
    """Check what can be checked of a variant without the source's weights."""
    options = fit_calibration(source, variant.recipe.calibration)
    text = split_calibration_text(texts, source.tokenizer, options, context=source.context)
    if variant.remake is not None:
        variant.remake.check(source.digest, text, variant.recipe)
    return VariantRun(
        source=source,
        recipe=variant.recipe,
        output=variant.output,
        calibration=options,
        text=text,
        num_weights=check_steps(source, variant.recipe),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """The making of variants of one source, once everything was checked that can be without its weights."""

    source: Source
    runs: tuple[VariantRun, ...]
    cache_dir: Path
    on_progress: OnStanding

    def make(self) -> tuple[CompressionReport, ...]:
        """Make what is not there yet."""
        with ExitStack() as stack:
            held = [
                (run, stack.enter_context(open_work_folder(self.cache_dir, run.facts(), output=run.output)))
                for run in self.runs
            ]
            report_by_output = {run.output: report for run in self.runs if (report := run.find_made())}
            works = [(run, work) for run, work in held if run.output not in report_by_output]
            if works:
                check_room([need for run, work in works for need in run.estimate_room(work)])
                clock = Clock(self._plan(works), self.on_progress)
                before, text_by_options = self._read_source([run for run, _ in works], clock)
                for run, work in works:
                    complete = replace(run, text=text_by_options[run.calibration])
                    report_by_output[run.output] = complete.make(work, clock, perplexity_before=before)
        return tuple(report_by_output[run.output] for run in self.runs)

    def _plan(self, works: Sequence[tuple[VariantRun, WorkFolder]]) -> list[Part]:
        """List the parts in the order in which they are done."""
        runs = [run for run, _ in works]
        parts = [] if self.source.is_classifier else [plan_perplexity("before", runs[0].text, variant="")]
        for run in _find_writers(runs):
            cost = PASSES_OF_A_WRITTEN_WINDOW * run.calibration.num_own_windows
            parts.append(Part(variant="", name="own text", kind="own text", cost=cost))
        return parts + [part for run, work in works for part in run.plan(work)]

    def _read_source(
        self, runs: Sequence[VariantRun], clock: Clock
    ) -> tuple[float | None, dict[CalibrationOptions, CalibrationText]]:
        """Give the source's perplexity, and for each way to calibrate its text, with what the model wrote."""
        # Where an earlier run has left everything, the weights are not even read.
        load = cache(self.source.load)
        before = self._measure_source(runs[0], load, clock)
        text_by_options = {run.calibration: run.text for run in runs}
        for run in _find_writers(runs):
            options = run.calibration
            with clock.next_part() as on_phase:
                facts = {**run.facts(), "recipe": options.model_dump(mode="json")}
                with open_shared_folder(self.cache_dir, "text", facts, on_phase=on_phase) as folder:
                    own_WT = write_own_text(load, run.text, options, folder=folder, on_phase=on_phase)
            text_by_options[options] = run.text.with_own(own_WT, seed=options.seed)
        return before, text_by_options

    def _measure_source(self, run: VariantRun, load: Callable[[], PreTrainedModel], clock: Clock) -> float | None:
        """Measure the source's perplexity, unless an earlier run with the same source and text has left it."""
        if self.source.is_classifier:
            return None
        part = plan_perplexity("before", run.text, variant="").name

        def tell(phase: str, share: float) -> None:
            self.on_progress(Standing(variant="", part=part, phase=phase, share=share, left_s=None))

        with open_shared_folder(self.cache_dir, "perplexity", run.original_facts(), on_phase=tell) as folder:
            file = folder / _PERPLEXITY_FILE
            if file.exists():
                clock.skip()
                return float(file.read_text("utf-8"))
            before = measure(self.source, load(), run.text, clock, where=self.source.reference)
            write_whole(file, repr(before).encode())
            return before


def _find_writers(runs: Sequence[VariantRun]) -> list[VariantRun]:
    """Give a run for each text that the model is to write."""
    by_options = {run.calibration: run for run in runs if run.calibration.own_tokens}
    return list(by_options.values())
