"""One trial: a variant is made by a recipe and measured beside its original."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from socket import gethostname
from typing import Any

from ensemble.calibration.items import LabelledItem
from ensemble.checkpoints import resolve_checkpoint
from ensemble.checkpoints.content import outline_folder
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.compression.calibration_sources import load_calibration_sources
from ensemble.compression.checks import check_steps, fit_calibration
from ensemble.compression.compress import Variant, make_variants
from ensemble.compression.recipe import Recipe
from ensemble.compression.record import count_weight_bytes, read_versions
from ensemble.compression.source import Source, open_source
from ensemble.compression.standing import Standing
from ensemble.engines.model_loading import choose_device
from ensemble.errors import ConfigError
from ensemble.variants.compare import compare_variants
from ensemble.variants.compare_task import CompareTask
from ensemble.variants.engine_setup import EngineSetup
from ensemble.variants.figures import ComparisonFigures
from ensemble.variants.lineage import Family, load_candidate
from ensemble.variants.measure_speed import SpeedTask
from ensemble.variants.passages import JudgingText, load_judging_text
from ensemble.variants.trial_figures import TrialFigures, build_trial_figures

VARIANT = "variant"
"""What a comparison calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTask:
    """What is the same in all trials: the original, the texts, what is measured and how."""

    source: str
    source_digest: str
    source_outline: str
    """What a trial holds the source to that it finds, instead of reading all of it again."""
    calibration_texts: tuple[str, ...] = ()
    calibration_digests: tuple[str, ...] = ()
    allow_compressed: bool = False
    text: JudgingText
    items: tuple[LabelledItem, ...] = ()
    setup: EngineSetup = field(default_factory=EngineSetup)
    speed: SpeedTask | None = field(default_factory=lambda: SpeedTask(batches=(1,)))
    """What is timed, in batches of one size; None times nothing."""
    num_rounds: int = 5
    compress_python: Path | None = None
    """What runs the steps that need a Python of their own."""

    def complete(self, recipe: Recipe) -> Recipe:
        """Say in a recipe what runs its steps."""
        return recipe.with_compress_python(self.compress_python) if self.compress_python else recipe

    def facts(self) -> dict[str, Any]:
        """Give everything that a trial's figures depend on, but for its recipe and the machine."""
        setup = {**asdict(self.setup), "prompt": self.setup.prompt.model_dump(mode="json")}
        del setup["cache_dir"]
        return {
            "source": self.source_digest,
            "calibration": self.calibration_digests,
            "passages": _digest(self.text.passages),
            "items": _digest([(item.item_id, item.prompt, item.choices, item.answer) for item in self.items]),
            "setup": setup,
            "speed": {**asdict(self.speed), "num_rounds": self.num_rounds} if self.speed else None,
            "versions": read_versions(),
        }


def prepare_trials(
    source: str,
    setup: EngineSetup,
    *,
    calibration_texts: Sequence[str] = (),
    judging_texts: Sequence[str] = (),
    allow_compressed: bool = False,
    on_phase: OnPhase = ignore_phase,
) -> TrialTask:
    """Find the source and read the texts.

    Raises:
        ConfigError: one is missing, cannot be read or cannot be used.
    """
    opened = open_source(source, cache_dir=setup.cache_dir, allow_compressed=allow_compressed, on_phase=on_phase)
    if opened.is_classifier:
        raise ConfigError(source, "it is a text classifier, which writes no text to be timed", "give a causal model")
    return TrialTask(
        source=source,
        source_digest=opened.digest,
        source_outline=outline_folder(opened.folder),
        calibration_texts=tuple(calibration_texts),
        calibration_digests=tuple(one.digest for one in load_calibration_sources(calibration_texts)),
        allow_compressed=allow_compressed,
        text=load_judging_text(judging_texts),
        setup=setup,
    )


def check_recipes(task: TrialTask, recipes: Mapping[str, Recipe], *, on_phase: OnPhase = ignore_phase) -> None:
    """See that every recipe's steps can be taken, by the source's sizes alone.

    Raises:
        ConfigError: one's cannot, which is told by its name.
    """
    source = _open_again(task, on_phase=on_phase)
    for name, recipe in recipes.items():
        try:
            fit_calibration(source, recipe.calibration)
            check_steps(source, task.complete(recipe))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error.where}", error.problem, error.remedy) from error


def run_trial(task: TrialTask, recipe: Recipe, folder: Path, *, on_phase: OnPhase = ignore_phase) -> TrialFigures:
    """Make a variant in a folder, which stays, and measure it; what a killed run had made is taken up again.

    Raises:
        ConfigError: the source, the recipe or a text cannot be used, or the disk is full.
        MemberError: an engine failed.
    """
    try:
        make_variant(task, recipe, folder, on_phase=on_phase)
    except ConfigError as error:
        # What came out of the recipe, not what went into it, is at fault: its text is no longer predicted at all.
        if error.where != "recipe":
            raise
        source = resolve_checkpoint(task.source, cache_dir=task.setup.cache_dir)
        return TrialFigures(file_bytes=0, original_bytes=count_weight_bytes(source), problem=error.problem)
    return sum_up(task, compare_with_original(task, folder, on_phase=on_phase))


def make_variant(task: TrialTask, recipe: Recipe, folder: Path, *, on_phase: OnPhase = ignore_phase) -> None:
    """Make a variant, unless it is there.

    Raises:
        ConfigError: the folder holds something else, or the variant cannot be made, or the source is another one now.
    """

    def hear(standing: Standing) -> None:
        on_phase(": ".join(filter(None, (standing.part, standing.phase))), standing.share)

    make_variants(
        _open_again(task, on_phase=on_phase),
        [Variant(recipe=task.complete(recipe), output=folder)],
        calibration_texts=task.calibration_texts,
        cache_dir=task.setup.cache_dir,
        on_progress=hear,
    )


def _open_again(task: TrialTask, *, on_phase: OnPhase) -> Source:
    """Open the source that the task was prepared with, wherever this is, without reading all of it once more."""
    opened = open_source(
        task.source,
        cache_dir=task.setup.cache_dir,
        allow_compressed=task.allow_compressed,
        on_phase=on_phase,
        digest=task.source_digest,
    )
    if outline_folder(opened.folder) != task.source_outline:
        problem = f"{opened.folder} on {gethostname()} is not the checkpoint that the search began with"
        raise ConfigError(task.source, problem, "give every node the same one, and let it be while the search runs")
    return opened


def compare_with_original(task: TrialTask, folder: Path, *, on_phase: OnPhase = ignore_phase) -> ComparisonFigures:
    """Measure a variant that is there; the original comes first.

    Raises:
        ConfigError: its steps have read the text that it is judged by.
        MemberError: an engine failed while it was timed.
    """
    cache_dir = task.setup.cache_dir
    original = load_candidate(
        "original", task.source, cache_dir=cache_dir, on_phase=on_phase, digest=task.source_digest
    )
    variant = load_candidate(VARIANT, str(folder), cache_dir=cache_dir, on_phase=on_phase)
    compared = CompareTask(
        families=(Family(original=original, variants=(variant,)),),
        text=task.text,
        items=task.items,
        setup=task.setup,
        speed=task.speed,
        num_rounds=task.num_rounds,
    )
    return compare_variants(compared, on_phase=on_phase)


def sum_up(task: TrialTask, figures: ComparisonFigures) -> TrialFigures:
    """Take from a comparison what a trial is about."""
    original, variant = figures.variants
    # One thread's processor time is what it takes when nobody else wants its core, as other trials may.
    # Where it was measured on a GPU, this machine need not have one.
    is_own_core = task.setup.threads == 1 and task.setup.device != "cuda" and choose_device(task.setup.device) == "cpu"
    return build_trial_figures(
        variant,
        original,
        batch=task.speed.batches[0] if task.speed else None,
        clock="processor" if is_own_core else "wall",
    )


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
