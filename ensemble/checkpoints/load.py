"""From a reference to a model that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from ensemble.checkpoints.folder import check_folder
from ensemble.checkpoints.load_int8 import load_int8_model
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.quiet import quiet_transformers
from ensemble.checkpoints.resolve import DEFAULT_CACHE_DIR, resolve_checkpoint
from ensemble.errors import CheckpointError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCheckpoint:
    """A model in evaluation mode without gradients, its tokenizer, and the folder that they came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    folder: Path


def load_checkpoint(
    reference: str,
    *,
    dtype: str,
    device: str,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    on_phase: OnPhase = ignore_phase,
) -> LoadedCheckpoint:
    """Load a checkpoint by any of the references that ``reference.py`` lists.

    Raises:
        CheckpointError: it is missing, damaged, pickled, or incomplete.
    """
    if dtype not in DTYPES:
        raise CheckpointError(reference, f"dtype {dtype!r} is unknown", f"take one of {', '.join(DTYPES)}")
    folder = resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase)
    config = check_folder(folder)
    on_phase("load", 0.0)
    try:
        with quiet_transformers():
            quantization = config.get("quantization_config")
            if quantization is None:
                model = _load_float_model(folder, DTYPES[dtype])
            else:
                model = load_int8_model(folder, quantization, DTYPES[dtype])
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise CheckpointError(
            str(folder), f"transformers cannot load it ({error})", "give a whole checkpoint"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(str(folder), "its tokenizer has no fast form", "add a tokenizer.json")
    _make_ready(model, device)
    on_phase("load", 1.0)
    return LoadedCheckpoint(model=model, tokenizer=tokenizer, folder=folder)


def _load_float_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    # transformers types this as a model alone, although it is a pair when the report is asked for.
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    model: PreTrainedModel
    model, report = loaded
    # transformers fills absent weights with random numbers and only warns.
    if report["missing_keys"]:
        absent = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(str(folder), f"weights are absent: {absent}", "give a whole checkpoint")
    return model


def _make_ready(model: Any, device: str) -> None:  # Any: transformers' wrappers hide the methods' types
    model.to(device)
    model.eval()
    model.requires_grad_(requires_grad=False)
