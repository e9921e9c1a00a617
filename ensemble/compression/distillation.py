"""Gradient steps in which one model learns to answer as another does; a killed run goes on from where it was.

Axes: W windows, T tokens, V vocabulary, D hidden width.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ensemble.errors import ConfigError
from ensemble.files.whole_file import remove_partials, whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

SAVE_EVERY_S = 120.0
"""How much of the work a kill may cost."""
BETAS = (0.9, 0.95)
"""Of AdamW: budgets are short, so its second moment must not lag a thousand steps behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How the learning rate goes: up in a line, then down to zero along half a cosine."""

    num_steps: int
    num_warmup_steps: int
    peak: float

    def rate(self, step: int) -> float:
        """Give the learning rate of a step, counted from 0."""
        if step < self.num_warmup_steps:
            return self.peak * (step + 1) / self.num_warmup_steps
        share = (step - self.num_warmup_steps) / max(1, self.num_steps - self.num_warmup_steps)
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is made small: a weighted sum of losses, each a mean over tokens."""

    original: PreTrainedModel
    original_layers: tuple[int, ...]
    original_hidden: tuple[int, ...]
    temperature: float
    cross_entropy: float
    hidden: float

    def measure(self, model: PreTrainedModel, windows_WT: Tensor) -> Tensor:
        """Give the loss of some windows."""
        wants_hidden = self.hidden > 0.0
        with torch.no_grad():
            wanted = self.original(windows_WT, use_cache=False, output_hidden_states=wants_hidden)
        given = model(windows_WT, use_cache=False, output_hidden_states=wants_hidden)
        loss = measure_divergence(given.logits, wanted.logits, self.temperature)
        if self.cross_entropy:
            logits_NV = given.logits[:, :-1].flatten(end_dim=1)
            loss = loss + self.cross_entropy * functional.cross_entropy(logits_NV, windows_WT[:, 1:].flatten())
        if wants_hidden:
            loss = loss + self.hidden * self._measure_hidden(given.hidden_states, wanted.hidden_states)
        return loss

    def _measure_hidden(self, given: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Give the mean squared distance of what leaves each layer but the last, relative to the original's size."""
        # The first entry is the embeddings; the last one has been through the final norm.
        channels_D = torch.tensor(self.original_hidden)
        errors = []
        for layer, number in enumerate(self.original_layers[:-1], start=1):
            wanted_WTD = wanted[number + 1][..., channels_D]
            distance_WT = (given[layer] - wanted_WTD).square().sum(dim=-1)
            errors.append((distance_WT / wanted_WTD.square().sum(dim=-1)).mean())
        return torch.stack(errors).mean() if errors else torch.zeros(())


def measure_divergence(logits_WTV: Tensor, wanted_WTV: Tensor, temperature: float) -> Tensor:
    """Give the mean Kullback-Leibler divergence from the wanted distributions, times the temperature's square.

    The factor keeps the gradients' size (Hinton et al. 2015, arXiv:1503.02531).
    """
    given_NV = (logits_WTV / temperature).flatten(end_dim=1).log_softmax(dim=-1)
    wanted_NV = (wanted_WTV / temperature).flatten(end_dim=1).log_softmax(dim=-1)
    return functional.kl_div(given_NV, wanted_NV, reduction="batchmean", log_target=True) * temperature**2


def draw_batches(windows_WT: Tensor, *, num_batches: int, batch_windows: int, seed: int) -> Iterator[Tensor]:
    """Draw windows without replacement, all of them before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    for _ in range(num_batches):
        while len(waiting) < batch_windows:
            waiting += torch.randperm(len(windows_WT), generator=generator).tolist()
        drawn, waiting = waiting[:batch_windows], waiting[batch_windows:]
        yield windows_WT[drawn]


@dataclass(slots=True, kw_only=True)
class Training:
    """The weights that learn, what the optimiser remembers of them, and how far they are."""

    weights: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    clip_norm: float
    losses: list[float] = field(default_factory=list)
    """Of every step so far."""

    def step(self, measure: Callable[[Tensor], Tensor], windows_WT: Tensor, rate: float) -> None:
        """Move the weights against the gradient of the windows' mean loss; one window is in memory at a time.

        Raises:
            ConfigError: the loss is no number.
        """
        total = 0.0
        for tokens_T in windows_WT:
            loss = measure(tokens_T[None]) / len(windows_WT)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if not math.isfinite(total):
            problem = f"the loss of step {len(self.losses) + 1} is not finite"
            raise ConfigError("distill", problem, "give a lower learning_rate")
        torch.nn.utils.clip_grad_norm_(self.weights, self.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(total)

    def save(self, path: Path) -> None:
        """Keep everything from which the rest of the steps follow.

        Raises:
            ConfigError: the disk does not take it.
        """
        state: dict[str, Any] = {
            "weights": [weight.detach() for weight in self.weights],
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
        }
        with whole_file(path) as stream:
            torch.save(state, stream)

    def load(self, path: Path) -> None:
        """Take up what was kept, where something was."""
        remove_partials(path)
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        with torch.no_grad():
            for weight, kept in zip(self.weights, state["weights"], strict=True):
                weight.copy_(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = state["losses"]


def train(
    training: Training,
    measure: Callable[[Tensor], Tensor],
    batches: Iterator[Tensor],
    schedule: Schedule,
    *,
    kept: Path,
    on_share: Callable[[float], None],
) -> None:
    """Take the steps that are left; the state lies in the file ``kept`` meanwhile."""
    training.load(kept)
    saved_s = time.monotonic()
    for number, windows_WT in enumerate(batches):
        if number < len(training.losses):
            continue
        on_share(number / schedule.num_steps)
        training.step(measure, windows_WT, schedule.rate(number))
        if time.monotonic() - saved_s >= SAVE_EVERY_S:
            training.save(kept)
            saved_s = time.monotonic()
