"""What a step of a recipe is, what it may use, and what it gives back.

Axes: W windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ensemble.checkpoints.layer_names import check_layer_name
from ensemble.checkpoints.progress import OnPhase, ignore_phase

LayerName = Annotated[str, AfterValidator(check_layer_name)]
"""A layer by its full name, its last part, or ``re:pattern``."""
HEADS = ("lm_head", "classifier", "score", "out_proj")
"""The last layers of causal models and classifiers: few weights of much effect, or shared with the embeddings."""
MAX_WINDOWS = 32
"""More text than this changes scores no further, and only takes time."""
MAX_WINDOWS_DESCRIPTION = "windows of the calibration text that are used at most"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a step may use beside the model; everything in it is the same in every run of the same command."""

    calibrate_WT: Tensor
    """Windows of tokens (int64) to measure and to learn from."""
    tokenizer: PreTrainedTokenizerFast
    load_original: Callable[[], PreTrainedModel]
    """Loads the source's model again, in float32, frozen, for the caller to keep or drop."""
    original_layers: tuple[int, ...]
    """For each decoder layer of the model as it is now, its number in the original; empty without decoder layers."""
    original_hidden: tuple[int, ...]
    """For each channel of the residual stream as it is now, its number in the original; empty without such layers."""
    seed: int
    """Of this step alone."""
    scratch: Path
    """An empty folder of the step's own, removed afterwards."""
    progress: Path
    """A folder in which a killed run of this very step finds again what it left; removed once the step's model is kept.

    A step that gives ``tensors`` leaves there what it takes long to find: no model is kept after it.
    """
    on_phase: OnPhase = ignore_phase


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step found, as JSON; and, of a quantising one, how its weights lie on disk."""

    findings: dict[str, Any]
    """A step that drops decoder layers names those that stay under ``kept_layers``, one that drops channels of the
    residual stream those under ``kept_hidden``."""
    quantization: dict[str, Any] | None = None
    """The ``quantization_config`` of ``config.json``."""
    tensors: Mapping[str, Tensor] | None = field(default=None)
    """What lies on disk, where that is not the model's own state."""


class Step(BaseModel):
    """One step: its options, as a recipe gives them.

    Between steps a model is a plain float32 model of transformers whose config describes it wholly, so that it can be
    saved and loaded by anyone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    is_last: ClassVar[bool] = False
    """Whether no step may follow, since the weights are no plain floats afterwards."""
    type: str

    def check(self, empty: PreTrainedModel) -> None:
        """Refuse what cannot work before long work starts, and cut the model as ``take`` will.

        ``empty`` has the model's shapes when the step is reached, on the meta device, without weights.

        Raises:
            ConfigError: the model or the options do not allow it.
        """
        raise NotImplementedError

    def estimate_passes(self, num_windows: int) -> float:
        """Say about how many forward passes of one window the work takes; for the time left alone."""
        return 0.0 if self.is_last else float(num_windows)

    def digest_files(self) -> dict[str, str]:
        """Digest the files that the options name, on which the result depends as on the options; findings repeat it."""
        return {}

    def take(self, model: PreTrainedModel, context: StepContext) -> StepResult:
        """Change the model in place; the same model and context give the same bits.

        Raises:
            ConfigError: what was found on the way does not allow it.
        """
        raise NotImplementedError
