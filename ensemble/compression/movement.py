"""How weights moved while a model was fine-tuned: recorded by transformers' Trainer, read by a pruning step.

A weight's movement score is minus the sum over all optimiser steps of weight times gradient (Sanh et al. 2020,
arXiv:2005.07683): positive where it moved away from zero. Under plain SGD a step's change is minus the learning rate
times the gradient, so there the score is the sum of weight times change, over the learning rate.

    trainer = Trainer(model=model, ..., callbacks=[MovementRecorder(Path("record"))])
    trainer.train()
    trainer.save_model("fine-tuned")

and the recipe for ``fine-tuned`` says ``{type: prune_weights, score: movement, record: record}``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from ensemble.checkpoints.storage import write_folder_whole
from ensemble.errors import ConfigError

RECORD_FILE = "movement.safetensors"
_CHANGE = ".change"
_SCORE = ".movement"


class MovementRecorder(TrainerCallback):
    """Records the weights of linear layers and embeddings; give it to a Trainer among its ``callbacks``.

    At the end of ``train()`` the folder holds ``movement.safetensors``: for each weight, by its name in the model, the
    change from beginning to end (``NAME.change``) and the movement score (``NAME.movement``), both float32. Two more
    copies of these weights are kept in the CPU's memory. The gradients are those that the optimiser gets: accumulated,
    and clipped if the Trainer clips.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists():
            raise ConfigError(str(folder), "it exists already", "choose another folder for the record, or remove it")
        self._folder = folder
        self._before: dict[str, Tensor] = {}
        self._score: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the weights as they are."""
        self._before = {name: _copy(weight) for name, weight in find_weights(kwargs["model"]).items()}
        self._score = {name: torch.zeros_like(weight) for name, weight in self._before.items()}

    @torch.no_grad()
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add a step's weight times gradient, before the one changes and the other goes."""
        for name, weight in find_weights(kwargs["model"]).items():
            if weight.grad is not None:
                self._score[name] -= _copy(weight) * _copy(weight.grad)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the record, whole or not at all."""
        weights = find_weights(kwargs["model"])
        tensors = {f"{name}{_CHANGE}": _copy(weights[name]) - before for name, before in self._before.items()}
        tensors |= {f"{name}{_SCORE}": score for name, score in self._score.items()}
        with write_folder_whole(self._folder) as partial:
            save_file(dict(sorted(tensors.items())), partial / RECORD_FILE)


def find_weights(model: nn.Module) -> dict[str, Tensor]:
    """Give the weights of linear layers and embeddings by name; of shared ones the first."""
    weights: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Embedding)) and all(layer.weight is not one for one in weights.values()):
            weights[f"{name}.weight"] = layer.weight
    return weights


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float32, copy=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MovementRecord:
    """A record that a ``MovementRecorder`` wrote."""

    file: Path
    shapes: dict[str, tuple[int, ...]]
    """Of each weight, by its name in the model."""

    @classmethod
    def open(cls, folder: Path, *, where: str) -> Self:
        """Read what a record is about.

        Raises:
            ConfigError: there is none, or it is damaged.
        """
        file = folder.expanduser() / RECORD_FILE
        try:
            with safe_open(file, framework="pt") as opened:
                names = [name for name in opened.keys() if name.endswith(_SCORE)]  # noqa: SIM118 - it is no mapping
                shapes = {name.removesuffix(_SCORE): tuple(opened.get_slice(name).get_shape()) for name in names}
        except (OSError, SafetensorError) as error:
            raise ConfigError(where, f"{file} cannot be read ({error})", "give a MovementRecorder's folder") from error
        return cls(file=file, shapes=shapes)

    def digest(self) -> str:
        """Give SHA-256 of the record."""
        with self.file.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"

    def load_score(self, name: str, *, where: str) -> Tensor:
        """Give a weight's movement score.

        Raises:
            ConfigError: it is not finite.
        """
        with safe_open(self.file, framework="pt") as opened:
            score: Tensor = opened.get_tensor(f"{name}{_SCORE}")
        if not torch.isfinite(score).all():
            raise ConfigError(where, f"the movement of {name} is not finite", "record a fine-tuning that converges")
        return score
