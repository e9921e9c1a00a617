"""The checkpoint that variants are made from: what is known of it before its weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ensemble.checkpoints.content import digest_folder
from ensemble.checkpoints.folder import check_folder
from ensemble.checkpoints.load import DTYPES, build_empty_model, load_checkpoint, names_classifier
from ensemble.checkpoints.progress import OnPhase
from ensemble.checkpoints.resolve import resolve_checkpoint
from ensemble.checkpoints.tokenizer import load_tokenizer
from ensemble.compression.record import RECORD_NAME
from ensemble.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A float checkpoint on this machine's disk."""

    reference: str
    folder: Path
    config: dict[str, Any]
    digest: str
    """Over all that decides what it says."""
    tokenizer: PreTrainedTokenizerFast

    @property
    def is_classifier(self) -> bool:
        """Whether it gives labels to texts, instead of continuing them."""
        return names_classifier(self.config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights on disk, which its variants' float weights get, too."""
        name = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
        return DTYPES.get(name, torch.float32)

    @property
    def context(self) -> int | None:
        """How many tokens its model can read; None where the config does not say."""
        text_config: Any = self.config.get("text_config") or self.config
        context = text_config.get("max_position_embeddings")
        return context if isinstance(context, int) else None

    def build_empty(self) -> PreTrainedModel:
        """Build its model without weights."""
        return build_empty_model(self.folder)

    def load(self) -> PreTrainedModel:
        """Load its model in float32.

        Raises:
            ConfigError: it is damaged, no longer there, or holds weights that are no numbers.
        """
        model = load_checkpoint(str(self.folder), dtype="float32", device="cpu").model
        for name, tensor in model.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise ConfigError(
                    self.reference, f"{name} holds weights that are not finite", "give a sound checkpoint"
                )
        return model


def open_source(
    reference: str, *, cache_dir: Path, allow_compressed: bool, on_phase: OnPhase, digest: str = ""
) -> Source:
    """Find, fetch or convert a checkpoint, and see that it can be compressed.

    All of it is read for its digest, unless the caller has that already.

    Raises:
        CheckpointError: it is missing, damaged or pickled.
        ConfigError: its weights are quantised, or it was compressed before and that is not allowed.
    """
    folder = resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase)
    config = check_folder(folder)
    if "quantization_config" in config:
        raise ConfigError(reference, "it is quantised already", "compress the float checkpoint that it was made from")
    if (folder / RECORD_NAME).exists() and not allow_compressed:
        raise ConfigError(
            reference,
            "it was compressed already",
            "compress what it was made from, or say --allow-compressed: it is then the original to repair towards",
        )
    return Source(
        reference=reference,
        folder=folder,
        config=config,
        digest=digest or digest_folder(folder, on_phase=on_phase),
        tokenizer=load_tokenizer(folder),
    )
