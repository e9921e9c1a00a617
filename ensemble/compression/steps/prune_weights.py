"""Setting weights to zero, wherever they are in a layer, by one of several scores.

Axes: O output features (or vocabulary), I input features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import nn

from ensemble.checkpoints.layer_names import is_ignored
from ensemble.compression.decoder_layers import find_decoder_layers
from ensemble.compression.layer_walk import walk_layers
from ensemble.compression.movement import MovementRecord
from ensemble.compression.movement_training import train_movement
from ensemble.compression.optimal_brain import DAMPING, factorise_inverse
from ensemble.compression.sparsegpt import prune_by_sparsegpt
from ensemble.compression.step import HEADS, LayerName, Step, StepContext, StepResult
from ensemble.compression.targets import check_has_layers
from ensemble.compression.zero_choice import (
    PATTERN_SPARSITY,
    Pattern,
    choose_channels,
    choose_in_layer,
    choose_in_pattern,
    choose_in_rows,
    count_channels_gone,
    read_pattern,
)
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

STORAGE = "dense: zeros in no structure, and those of a pattern, make neither the file smaller nor the model faster"
"""vLLM loads no checkpoints of 2:4 patterns any more, and no kernel here skips single zeros."""
_BY_INPUTS = ("wanda", "sparsegpt")


class PruneWeights(Step):
    """Set a share of each layer's weights to zero, lowest score first; the checkpoint is no smaller and no faster.

    - ``magnitude``: the weight's magnitude (Han et al. 2015, arXiv:1506.02626).
    - ``channel``: whole output channels (rows of a weight) go, by their largest magnitude; biases stay.
    - ``movement``: minus the sum of weight times gradient over a fine-tuning (Sanh et al. 2020, arXiv:2005.07683),
      from the ``record`` of a MovementRecorder, or from ``train_tokens`` of the calibration text, on a copy.
    - ``wanda``: magnitude times the norm of the input on the calibration text, for each output feature (Sun et al.
      2023, arXiv:2306.11695).
    - ``sparsegpt``: what the output's error grows by; weights that stay make up for it (Frantar and Alistarh 2023,
      arXiv:2301.00774).

    The last two take the decoder's layers in their order, each with the inputs that the pruned ones before it give; a
    layer outside of the decoder is pruned by magnitude.
    """

    type: Literal["prune_weights"] = "prune_weights"
    # No default: the simplest one, magnitude, harms most.
    score: Literal["magnitude", "channel", "movement", "wanda", "sparsegpt"] = Field(
        description="what says which weights matter least"
    )
    sparsity: float = Field(default=0.5, gt=0.0, lt=1.0, description="share of each layer's weights that become zero")
    pattern: Pattern | None = Field(
        default=None, description="so many of so many neighbouring inputs become zero, in every layer alike"
    )
    record: Path | None = Field(default=None, description="movement: the folder that a MovementRecorder wrote")
    train_tokens: int | None = Field(
        default=None, ge=1, le=10**9, description="movement: how much calibration text to train a copy on instead"
    )
    learning_rate: float = Field(default=1e-3, gt=0.0, le=1.0, description="of that training, by plain SGD")
    targets: tuple[Literal["Linear", "Embedding"], ...] = Field(
        default=("Linear",), min_length=1, description="kinds of layers whose weights are pruned"
    )
    ignore: tuple[LayerName, ...] = Field(
        default=HEADS, description="layers that stay whole, by full name, last part, or re:pattern"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        sources = [name for name in ("record", "train_tokens") if getattr(self, name) is not None]
        # A variant's record says every option, those that were left out, too.
        options = ("record", "train_tokens", "learning_rate")
        told = [name for name in options if getattr(self, name) != type(self).model_fields[name].default]
        problems = {
            "movement needs one of record and train_tokens": self.score == "movement" and len(sources) != 1,
            f"{', '.join(sorted(told))} go with score: movement alone": self.score != "movement" and bool(told),
            f"a pattern is a sparsity of {PATTERN_SPARSITY:g}": self.pattern and self.sparsity != PATTERN_SPARSITY,
            "channel takes no pattern": self.score == "channel" and self.pattern is not None,
            f"{self.score} prunes linear layers alone": self.score in {"channel", *_BY_INPUTS}
            and self.targets != ("Linear",),
        }
        for problem, is_met in problems.items():
            if is_met:
                raise ValueError(problem)
        return self

    def check(self, empty: PreTrainedModel) -> None:
        """See that there is something to prune, that sizes fit, and that a record is of this model."""
        weights = {name: self._weight(empty, name) for name in self.find_layers(empty)}
        for name, weight_OI in weights.items():
            self._check_sizes(name, *weight_OI.shape)
        if self.score in _BY_INPUTS:
            find_decoder_layers(empty, self.type)
        if self.train_tokens is not None and not empty.can_generate():
            raise ConfigError(
                f"{self.type}.train_tokens",
                f"a {type(empty).__name__} does not continue text, on which it would be trained",
                "give the record of a fine-tuning",
            )
        if self.record is not None:
            self._check_record(self.record, empty, weights)

    def find_layers(self, model: PreTrainedModel) -> list[str]:
        """List the layers that are pruned.

        Raises:
            ConfigError: there is none.
        """
        kinds = tuple({"Linear": nn.Linear, "Embedding": nn.Embedding}[target] for target in self.targets)
        names = [
            name
            for name, layer in model.named_modules()
            if isinstance(layer, kinds) and not is_ignored(name, self.ignore)
        ]
        if not names:
            check_has_layers(model, self.type)
            raise ConfigError(f"{self.type}.ignore", "no layer is left to prune", "ignore fewer, or name more targets")
        return names

    def digest_files(self) -> dict[str, str]:
        """Digest the record."""
        if self.record is None:
            return {}
        return {"record_digest": MovementRecord.open(self.record, where=f"{self.type}.record").digest()}

    def estimate_passes(self, num_windows: int) -> float:
        """Walks read each window twice and work on the weights; a training step costs three passes."""
        if self.score in _BY_INPUTS:
            return 4.0 * num_windows
        return 3.0 * (self.train_tokens or 0) / 256

    @torch.no_grad()
    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Prune every layer; tell their number, the share of zeros over all of them, and what zeros bring."""
        names = self.find_layers(model)
        walked = self._walk(model, names, context) if self.score in _BY_INPUTS else set()
        choose = self._find_rule(model, names, context)
        num_zeros = num_weights = 0
        for done, name in enumerate(names):
            context.on_phase("prune weights", done / len(names))
            weight_OI = self._weight(model, name)
            if name not in walked:
                weight_OI.masked_fill_(choose(name, weight_OI), 0.0)
            num_zeros += int((weight_OI == 0).sum())
            num_weights += weight_OI.numel()
        findings = {"num_layers": len(names), "zero_share": num_zeros / num_weights, "storage": STORAGE}
        return StepResult(findings=findings | self.digest_files())

    def _find_rule(
        self, model: PreTrainedModel, names: list[str], context: StepContext
    ) -> Callable[[str, Tensor], Tensor]:
        """Give what makes the mask of a layer that no walk has pruned."""
        if self.score == "channel":
            return lambda _name, weight_OI: choose_channels(weight_OI, self.sparsity)
        if self.score == "movement" and self.record is not None:
            where = f"{self.type}.record"
            record = MovementRecord.open(self.record, where=where)
            return lambda name, _weight: self._choose(record.load_score(f"{name}.weight", where=where))
        if self.score == "movement":
            scores = train_movement(
                model, names, context, num_tokens=self.train_tokens or 1, learning_rate=self.learning_rate
            )
            return lambda name, _weight: self._choose(scores[name])
        return lambda _name, weight_OI: self._choose(weight_OI.abs())

    def _choose(self, score_OI: Tensor) -> Tensor:
        return choose_in_pattern(score_OI, self.pattern) if self.pattern else choose_in_layer(score_OI, self.sparsity)

    def _walk(self, model: PreTrainedModel, names: list[str], context: StepContext) -> set[str]:
        """Prune the decoder's layers by what goes into them; gives their names."""
        walked: set[str] = set()
        for layer in walk_layers(model, context.calibrate_WT, step=self.type, on_phase=context.on_phase):
            linears = layer.pick(names)
            for measured in layer.measure_inputs(list(linears)):
                prune = self._prune_by(measured.gram_II)
                for name in measured.names:
                    linears[name].weight.copy_(prune(linears[name].weight))
                    walked.add(name)
        return walked

    def _prune_by(self, gram_II: Tensor) -> Callable[[Tensor], Tensor]:
        """Give what prunes the weights of an input."""
        if self.score == "sparsegpt":
            factor_II = factorise_inverse(gram_II, DAMPING)
            return lambda weight_OI: prune_by_sparsegpt(weight_OI, factor_II, self.sparsity, self.pattern)
        norm_I = gram_II.diagonal().sqrt()

        def prune(weight_OI: Tensor) -> Tensor:
            score_OI = weight_OI.abs() * norm_I
            gone_OI = (
                choose_in_pattern(score_OI, self.pattern) if self.pattern else choose_in_rows(score_OI, self.sparsity)
            )
            return weight_OI.masked_fill(gone_OI, 0.0)

        return prune

    def _check_sizes(self, name: str, num_out: int, num_in: int) -> None:
        if self.pattern and num_in % read_pattern(self.pattern)[1]:
            raise ConfigError(
                f"{self.type}.pattern",
                f"{name} has {num_in} input features, which cannot be {self.pattern}",
                "ignore it, or leave the pattern out",
            )
        num_gone = count_channels_gone(num_out, self.sparsity)
        if self.score == "channel" and not 0 < num_gone < num_out:
            raise ConfigError(
                f"{self.type}.sparsity",
                f"{num_gone} of the {num_out} channels of {name} would go",
                "take another sparsity, or ignore it",
            )

    def _check_record(self, folder: Path, empty: PreTrainedModel, weights: dict[str, Tensor]) -> None:
        where, remedy = f"{self.type}.record", "record the fine-tuning of the very model that is pruned"
        recorded = MovementRecord.open(folder, where=where).shapes
        present = {name for name, _ in empty.named_parameters(remove_duplicate=False)}
        if strange := sorted(set(recorded) - present):
            raise ConfigError(where, f"it is of another model, which has {strange[0]}", remedy)
        for name, weight in weights.items():
            if recorded.get(f"{name}.weight") != tuple(weight.shape):
                raise ConfigError(where, f"it has no {name}.weight of shape {tuple(weight.shape)}", remedy)

    @staticmethod
    def _weight(model: PreTrainedModel, name: str) -> Any:
        return cast("nn.Linear | nn.Embedding", model.get_submodule(name)).weight
