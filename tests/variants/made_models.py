"""A tiny original and what compressions of it would leave on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ensemble.checkpoints.content import digest_folder
from tests.checkpoints.tiny_models import build_llama, save

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel


def build_original() -> PreTrainedModel:
    """Build a random model that is right now and then: only then do models err alike."""
    return build_llama(num_layers=2, tied=False)


def save_original(folder: Path) -> str:
    return save(build_original(), folder)


def save_variant(
    folder: Path, source: str, *, noise: float = 0.02, seed: int = 1, text_digests: Sequence[str] = (), **more: Any
) -> str:
    """Save the original's weights with noise, and a record that says what they were made from."""
    model: Any = build_original()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=noise)
    save(model, folder)
    write_record(folder, source, text_digests=text_digests, **more)
    return str(folder)


def write_record(folder: Path, source: str, *, text_digests: Sequence[str] = (), **more: Any) -> None:
    record = {
        "source": source,
        "source_digest": digest_folder(Path(source)),
        "calibration": {"texts": [{"name": "a text", "digest": digest} for digest in text_digests]},
        "steps": [{"type": "prune_width"}, {"type": "quantize_int8"}],
        **more,
    }
    (folder / "compression.json").write_text(json.dumps(record))
