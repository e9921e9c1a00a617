"""From a checkpoint and a recipe to a smaller checkpoint, with a record of how it came about."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ensemble.checkpoints import DEFAULT_CACHE_DIR
from ensemble.checkpoints.folder import read_config
from ensemble.checkpoints.load import DTYPES, LoadedCheckpoint, load_checkpoint
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.storage import write_folder_whole
from ensemble.checkpoints.write import collect_tensors, write_checkpoint
from ensemble.compression.calibration_text import CalibrationText, load_calibration_text, split_calibration_text
from ensemble.compression.decoder_layers import has_decoder_layers
from ensemble.compression.perplexity import measure_perplexity
from ensemble.compression.record import (
    RECORD_NAME,
    CompressionReport,
    count_weight_bytes,
    read_source_digest,
    read_versions,
)
from ensemble.compression.step import StepContext, StepResult
from ensemble.compression.work_folder import WorkFolder, open_work_folder
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from ensemble.compression.recipe import Recipe


def compress(
    source: str,
    recipe: Recipe,
    output: Path,
    *,
    calibration_texts: Sequence[Path] = (),
    cache_dir: Path = DEFAULT_CACHE_DIR,
    on_progress: OnPhase = ignore_phase,
) -> CompressionReport:
    """Take the recipe's steps in order and write the result as a whole folder or not at all.

    The same source, recipe and text give byte-equal weights. What a killed run had finished is taken up again.

    Raises:
        ConfigError: the output exists, or the recipe, the source or the text cannot be used; found before long work.
        CheckpointError: the source cannot be loaded.
    """
    if output.exists():
        raise ConfigError(str(output), "it exists already", "choose another folder, or remove it")
    text = load_calibration_text(calibration_texts)
    source_checkpoint = load_checkpoint(
        source, dtype="float32", device="cpu", cache_dir=cache_dir, on_phase=on_progress
    )
    _check_source(source, source_checkpoint, recipe)
    run = _Run(
        source=source,
        checkpoint=source_checkpoint,
        recipe=recipe,
        calibration=split_calibration_text(text, source_checkpoint.tokenizer),
        num_layers=_count_layers(source_checkpoint.model),
        cache_dir=cache_dir,
        on_progress=on_progress,
    )
    with open_work_folder(cache_dir, run.facts()) as work:
        report = run.make(output, work)
        work.remove()
    return report


def _check_source(source: str, checkpoint: LoadedCheckpoint, recipe: Recipe) -> None:
    if "quantization_config" in read_config(checkpoint.folder):
        raise ConfigError(source, "it is quantised already", "compress the float checkpoint that it was made from")
    with torch.device("meta"):
        empty = type(checkpoint.model)(deepcopy(checkpoint.model.config))
    for step in recipe.steps:
        step.check(empty)
    for name, tensor in checkpoint.model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(source, f"{name} holds weights that are not finite", "give a sound checkpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One compression, from the loaded source on."""

    source: str
    checkpoint: LoadedCheckpoint
    recipe: Recipe
    calibration: CalibrationText
    num_layers: int
    """Of the source's decoder; its model changes."""
    cache_dir: Path
    on_progress: OnPhase

    def facts(self) -> dict[str, Any]:
        """Give everything that the result's bytes depend on."""
        return {
            "source": read_source_digest(self.checkpoint.folder),
            "recipe": self.recipe.model_dump(mode="json"),
            "calibration": self.calibration.digest,
            "versions": read_versions(),
        }

    def make(self, output: Path, work: WorkFolder) -> CompressionReport:
        """Take the steps that are left, and write what comes out."""
        self.on_progress("perplexity before", 0.0)
        before = self._measure(self.checkpoint.model, where=self.source)
        model, steps, result = self._take_steps(work)
        self.on_progress("perplexity after", 0.0)
        after = self._measure(model, where="recipe")
        self.on_progress("write", 0.0)
        with write_folder_whole(output) as partial:
            self._write(partial, model, result)
            report = CompressionReport(
                source=self.source,
                source_digest=read_source_digest(self.checkpoint.folder),
                output=str(output),
                recipe=self.recipe.model_dump(mode="json"),
                steps=tuple(steps),
                source_bytes=count_weight_bytes(self.checkpoint.folder),
                output_bytes=count_weight_bytes(partial),
                perplexity_before=before,
                perplexity_after=after,
                calibration_digest=self.calibration.digest,
                versions=read_versions(),
            )
            (partial / RECORD_NAME).write_text(json.dumps(asdict(report), indent=2) + "\n", "utf-8")
        self.on_progress("write", 1.0)
        return report

    def _take_steps(self, work: WorkFolder) -> tuple[PreTrainedModel, list[dict[str, Any]], StepResult]:
        """Give the last model, what every step found, and the last step's result."""
        kept = work.find_last()
        model, steps = self.checkpoint.model, list(kept.findings) if kept else []
        if kept:
            model = self._load(str(kept.checkpoint))
        result = StepResult(findings={})
        for number, step in enumerate(self.recipe.steps[len(steps) :], start=len(steps)):
            with work.scratch() as scratch:
                context = StepContext(
                    calibrate_WT=self.calibration.calibrate_WT,
                    tokenizer=self.checkpoint.tokenizer,
                    load_original=lambda: self._load(self.source),
                    original_layers=_trace_layers(self.num_layers, steps),
                    seed=self.recipe.seed + number,
                    scratch=scratch,
                    on_phase=self.on_progress,
                )
                result = step.take(model, context)
            steps.append({"type": step.type, **result.findings})
            if number + 1 < len(self.recipe.steps):
                work.keep(model, self.checkpoint.tokenizer, steps)
        return model, steps, result

    def _load(self, reference: str) -> PreTrainedModel:
        return load_checkpoint(reference, dtype="float32", device="cpu", cache_dir=self.cache_dir).model

    def _measure(self, model: PreTrainedModel, *, where: str) -> float | None:
        if self.checkpoint.is_classifier:
            return None
        perplexity = measure_perplexity(model, self.calibration.held_out_WT)
        if not math.isfinite(perplexity):
            remedy = "give a sound checkpoint, or compress it less"
            raise ConfigError(where, "the model's perplexity is not finite", remedy)
        return perplexity

    def _write(self, folder: Path, model: PreTrainedModel, result: StepResult) -> None:
        """Write the weights in the dtype that the source had; scales stay float32."""
        source_config = read_config(self.checkpoint.folder)
        dtype_name = source_config.get("dtype") or source_config.get("torch_dtype") or "float32"
        dtype = DTYPES.get(dtype_name, torch.float32)
        model.config.dtype = dtype
        tensors = (
            dict(result.tensors)
            if result.tensors is not None
            else {
                name: tensor.to(dtype)
                if tensor.dtype == torch.float32 and not name.endswith(".weight_scale")
                else tensor
                for name, tensor in collect_tensors(model).items()
            }
        )
        tokenizer = self.checkpoint.tokenizer
        write_checkpoint(folder, tensors, model=model, tokenizer=tokenizer, quantization=result.quantization)


def _count_layers(model: PreTrainedModel) -> int:
    return int(model.config.num_hidden_layers) if has_decoder_layers(model) else 0


def _trace_layers(num_layers: int, steps: Sequence[dict[str, Any]]) -> tuple[int, ...]:
    """Give the number in the original, of so many layers, of each layer that the steps so far have left."""
    layers = list(range(num_layers))
    for step in steps:
        layers = [layers[index] for index in step.get("kept_layers", range(len(layers)))]
    return tuple(layers)
