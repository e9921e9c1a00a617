"""Repair by distillation: the model learns to give the probabilities that the original gives.

Axes: W windows, T tokens.
"""

from __future__ import annotations

import math
import statistics
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from ensemble.compression.decoder_layers import has_decoder_layers
from ensemble.compression.distillation import BETAS, Objective, Schedule, Training, draw_batches, train
from ensemble.compression.lora import add_adapters, merge_adapters
from ensemble.compression.step import Step, StepContext, StepResult
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LoraOptions(BaseModel):
    """Adapters of low rank in place of all weights (Hu et al. 2021, arXiv:2106.09685), merged afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1, le=4096, description="rank of what is added to a linear layer's weight")
    alpha: int = Field(default=32, ge=1, le=65536, description="the adapters' product is multiplied with alpha / rank")


class Distill(Step):
    """Train the model to give the original's next-token probabilities, on windows of the calibration text."""

    type: Literal["distill"] = "distill"
    tokens: int = Field(default=20480, ge=1, le=2**40, description="budget: tokens that are read in all")
    batch_windows: int = Field(default=1, ge=1, le=4096, description="windows of a gradient step")
    learning_rate: float = Field(default=1e-4, gt=0.0, lt=1.0, description="at its peak")
    warmup: float = Field(default=0.1, ge=0.0, lt=1.0, description="share of the steps in which the rate rises")
    weight_decay: float = Field(default=0.0, ge=0.0, lt=1.0, description="AdamW's")
    clip_norm: float = Field(default=1.0, gt=0.0, description="largest norm of a step's gradient")
    temperature: float = Field(default=1.0, gt=0.0, description="of both models' probabilities")
    cross_entropy: float = Field(default=0.0, ge=0.0, description="weight of the text's own next tokens as targets")
    hidden: float = Field(default=0.0, ge=0.0, description="weight of the distance of what leaves the layers")
    lora: LoraOptions | None = Field(default=None, description="train adapters of low rank in place of all weights")

    def check(self, empty: PreTrainedModel) -> None:
        """See that the model gives next-token probabilities and is built as the options want it."""
        if empty.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
            raise ConfigError(self.type, f"a {type(empty).__name__} predicts no tokens", "leave this step out")
        if self.hidden and not has_decoder_layers(empty):
            raise ConfigError(
                f"{self.type}.hidden", f"a {type(empty).__name__} has no plain stack of decoder layers", "leave it out"
            )

        if self.lora and find_spec("peft") is None:
            raise ConfigError(f"{self.type}.lora", "peft is not installed", "pip install peft, or leave lora out")

    def estimate_passes(self, num_windows: int) -> float:
        """Count one pass of the original and three of the model."""
        del num_windows
        return self.tokens / 256 * 4.0

    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Spend the budget; tell the number of steps and the mean loss of the first and last tenth of them."""
        windows_WT = context.calibrate_WT
        num_steps = math.ceil(self.tokens / (self.batch_windows * windows_WT.shape[1]))
        objective = Objective(
            original=context.load_original(),
            original_layers=context.original_layers,
            original_hidden=context.original_hidden,
            temperature=self.temperature,
            cross_entropy=self.cross_entropy,
            hidden=self.hidden,
        )
        learner = self._prepare(model, context.seed)
        weights = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            weights, lr=self.learning_rate, betas=BETAS, weight_decay=self.weight_decay, fused=True
        )
        training = Training(weights=weights, optimizer=optimizer, clip_norm=self.clip_norm)
        train(
            training,
            lambda batch_WT: objective.measure(learner, batch_WT),
            draw_batches(windows_WT, num_batches=num_steps, batch_windows=self.batch_windows, seed=context.seed),
            Schedule(num_steps=num_steps, num_warmup_steps=round(self.warmup * num_steps), peak=self.learning_rate),
            kept=context.progress / "distill.pt",
            on_share=lambda share: context.on_phase("distill", share),
        )
        if self.lora is not None:
            merge_adapters(learner)
        model.requires_grad_(requires_grad=False)
        tenth = max(1, num_steps // 10)
        first, last = (statistics.fmean(part) for part in (training.losses[:tenth], training.losses[-tenth:]))
        return StepResult(findings={"num_steps": num_steps, "first_loss": first, "last_loss": last})

    def _prepare(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        """Give what learns: the model itself, or the model with adapters inside."""
        if self.lora is None:
            model.requires_grad_(requires_grad=True)
            return model
        adapted: PreTrainedModel = add_adapters(model, rank=self.lora.rank, alpha=self.lora.alpha, seed=seed)
        return adapted
