"""The making of one variant: its steps in order, what is kept between them, and the whole result."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ensemble.checkpoints.load import load_checkpoint
from ensemble.checkpoints.storage import write_folder_whole
from ensemble.checkpoints.write import collect_tensors, write_checkpoint
from ensemble.compression.calibration_options import CalibrationOptions
from ensemble.compression.calibration_text import CalibrationText
from ensemble.compression.decoder_layers import has_decoder_layers
from ensemble.compression.full_disk import full_disk_told
from ensemble.compression.perplexity import measure_perplexity
from ensemble.compression.recipe import Recipe
from ensemble.compression.record import (
    CompressionReport,
    count_weight_bytes,
    read_report,
    read_versions,
    write_record,
)
from ensemble.compression.source import Source
from ensemble.compression.standing import Part
from ensemble.compression.step import StepContext, StepResult
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from ensemble.compression.standing import Clock
    from ensemble.compression.work_folder import WorkFolder

_STATE_BYTES = torch.float32.itemsize
"""Of a weight that is no code, while it is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRun:
    """One variant of a source, and everything that its bytes depend on."""

    source: Source
    recipe: Recipe
    output: Path
    calibration: CalibrationOptions
    """The recipe's, with windows that fit the model."""
    text: CalibrationText
    num_weights: tuple[int, ...]
    """How many the model has after each step."""

    def facts(self) -> dict[str, Any]:
        """Give everything that the result's bytes depend on."""
        return {
            "source": self.source.digest,
            "recipe": self.recipe.model_dump(mode="json"),
            "files": [step.digest_files() for step in self.recipe.steps],
            "calibration": self.text.digest,
            "versions": read_versions(),
            "threads": torch.get_num_threads(),
        }

    def original_facts(self) -> dict[str, Any]:
        """Give everything that the source's perplexity depends on."""
        return {
            "source": self.source.digest,
            "held_out": self.text.held_out_digest,
            "versions": read_versions(),
            "threads": torch.get_num_threads(),
        }

    def find_made(self) -> CompressionReport | None:
        """Give the report of the output where it is there already, made in this way.

        Raises:
            ConfigError: it is another variant.
        """
        if not self.output.exists():
            return None
        try:
            report = read_report(self.output)
        except ValueError as error:
            raise ConfigError(str(self.output), "it exists already", "choose another folder, or remove it") from error
        made_of = (report.source_digest, report.recipe, report.calibration_digest)
        has_files = all(
            step.digest_files().items() <= findings.items()
            for step, findings in zip(self.recipe.steps, report.steps, strict=False)
        )
        if not has_files or made_of != (self.source.digest, self.recipe.model_dump(mode="json"), self.text.digest):
            problem = "it exists already, made of another source, recipe or text"
            raise ConfigError(str(self.output), problem, "choose another folder, or remove it")
        return report

    def estimate_room(self, work: WorkFolder) -> list[tuple[Path, int]]:
        """Say at the least how many bytes will be written where, beyond what is kept."""
        kept = [_STATE_BYTES * count for count in self.num_weights]
        written = self.num_weights[-1] * self.source.dtype.itemsize
        if self.recipe.steps[-1].is_last:
            # How few bits a quantising step leaves is its own affair; it leaves 4 and the scales.
            kept[-1] = written = self.num_weights[-1] // 2
        # A state goes once the next one is whole.
        peak = max(sum(kept[index : index + 2]) for index in range(len(kept)))
        return [(work.folder, max(0, peak - work.count_bytes())), (self.output, written)]

    def plan(self, work: WorkFolder) -> list[Part]:
        """List the parts that are left."""
        kept = work.find_last()
        name, num_steps = self.output.name, len(self.recipe.steps)
        num_windows = len(self.text.calibrate_WT) + self.calibration.num_own_windows
        parts = [
            Part(
                variant=name,
                name=f"step {number + 1} of {num_steps}, {step.type}",
                kind=step.type,
                cost=max(1.0, step.estimate_passes(num_windows)),
            )
            for number, step in enumerate(self.recipe.steps)
            if number >= (len(kept.findings) if kept else 0)
        ]
        if not self.source.is_classifier:
            parts.append(plan_perplexity("after", self.text, variant=name))
        return [*parts, Part(variant=name, name="write", kind="write", cost=1.0)]

    def make(self, work: WorkFolder, clock: Clock, *, perplexity_before: float | None) -> CompressionReport:
        """Take the steps that are left, and write what comes out."""
        model, steps, seconds, result = self._take_steps(work, clock)
        after = measure(self.source, model, self.text, clock, where="recipe")
        with (
            clock.next_part() as on_phase,
            full_disk_told(self.output),
            write_folder_whole(self.output) as partial,
        ):
            self._write(partial, model, result)
            on_phase("record", 0.5)
            report = CompressionReport(
                source=self.source.reference,
                source_digest=self.source.digest,
                output=str(self.output),
                recipe=self.recipe.model_dump(mode="json"),
                steps=tuple(steps),
                source_bytes=count_weight_bytes(self.source.folder),
                output_bytes=count_weight_bytes(partial),
                perplexity_before=perplexity_before,
                perplexity_after=after,
                calibration=self.text.describe(),
                calibration_digest=self.text.digest,
                versions=read_versions(),
                threads=torch.get_num_threads(),
                seconds={"steps": seconds},
            )
            write_record(partial, report)
        work.remove()
        return report

    def _take_steps(
        self, work: WorkFolder, clock: Clock
    ) -> tuple[PreTrainedModel, list[dict[str, Any]], list[float], StepResult]:
        """Give the last model, what every step found, how long each took, and the last step's result.

        After each step the model is kept, so that a kill while the last one is measured or written costs no step.
        """
        kept = work.find_last()
        findings, seconds = (list(kept.findings), list(kept.seconds)) if kept else ([], [])
        model = _load_state(kept.checkpoint) if kept else self.source.load()
        config, has_layers = self.source.build_empty().config, has_decoder_layers(model)
        num_layers, hidden_width = (config.num_hidden_layers, config.hidden_size) if has_layers else (0, 0)
        result = StepResult(findings={}, quantization=kept.quantization if kept else None)
        for number in range(len(findings), len(self.recipe.steps)):
            step, begun_s = self.recipe.steps[number], time.monotonic()
            with (
                clock.next_part() as on_phase,
                full_disk_told(work.folder),
                work.scratch() as scratch,
                work.progress(number) as progress,
            ):
                context = StepContext(
                    calibrate_WT=self.text.calibrate_WT,
                    tokenizer=self.source.tokenizer,
                    load_original=self.source.load,
                    original_layers=_trace(num_layers, findings, "kept_layers"),
                    original_hidden=_trace(hidden_width, findings, "kept_hidden"),
                    seed=self.recipe.seed + number,
                    scratch=scratch,
                    progress=progress,
                    on_phase=on_phase,
                )
                result = step.take(model, context)
            findings.append({"type": step.type, **result.findings})
            seconds.append(round(time.monotonic() - begun_s, 3))
            # Where it is not the model's own state that is written, the step itself has kept what took it long.
            if result.tensors is None:
                notes: dict[str, Any] = {"findings": findings, "seconds": seconds, "quantization": result.quantization}
                state = work.keep(model, self.source.tokenizer, **notes)
                # Read back as a killed run does, so that both go on from the very same model.
                del model
                model = _load_state(state.checkpoint)
        return model, findings, seconds, result

    def _write(self, folder: Path, model: PreTrainedModel, result: StepResult) -> None:
        """Write the weights in the dtype that the source had; scales stay float32."""
        dtype = self.source.dtype
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
        write_checkpoint(
            folder, tensors, model=model, tokenizer=self.source.tokenizer, quantization=result.quantization
        )


def plan_perplexity(when: str, text: CalibrationText, *, variant: str) -> Part:
    """Plan a measurement on the held-out text."""
    cost = float(len(text.held_out_WT))
    return Part(variant=variant, name=f"perplexity {when}", kind="perplexity", cost=cost)


def measure(source: Source, model: PreTrainedModel, text: CalibrationText, clock: Clock, *, where: str) -> float | None:
    """Measure the perplexity on the held-out text; a classifier has none.

    Raises:
        ConfigError: it is no number, or beyond all numbers.
    """
    if source.is_classifier:
        return None
    with clock.next_part() as on_phase:
        perplexity = measure_perplexity(model, text.held_out_WT, on_phase=on_phase)
    if not math.isfinite(perplexity):
        remedy = "give a sound checkpoint, or compress it less"
        raise ConfigError(where, "the model's perplexity is not finite", remedy)
    return perplexity


def _load_state(folder: Path) -> PreTrainedModel:
    return load_checkpoint(str(folder), dtype="float32", device="cpu").model


def _trace(num: int, steps: Sequence[dict[str, Any]], key: str) -> tuple[int, ...]:
    """Give the number in the original, of so many, of each layer or channel that the steps so far have left."""
    numbers = list(range(num))
    for step in steps:
        numbers = [numbers[index] for index in step.get(key, range(len(numbers)))]
    return tuple(numbers)
