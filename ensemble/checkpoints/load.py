"""From a reference to a model that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ensemble.checkpoints.folder import check_folder
from ensemble.checkpoints.load_quantized import load_quantized_model
from ensemble.checkpoints.progress import OnPhase, ignore_phase
from ensemble.checkpoints.quiet import quiet_transformers
from ensemble.checkpoints.resolve import DEFAULT_CACHE_DIR, resolve_checkpoint
from ensemble.checkpoints.tokenizer import load_tokenizer
from ensemble.errors import CheckpointError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCheckpoint:
    """A model in evaluation mode without gradients, its tokenizer, and the folder that they came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    folder: Path
    is_classifier: bool
    """Whether it gives labels to texts, instead of continuing them."""


def load_checkpoint(
    reference: str,
    *,
    dtype: str,
    device: str,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    on_phase: OnPhase = ignore_phase,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> LoadedCheckpoint:
    """Load a checkpoint by any of the references that ``reference.py`` lists: a causal model or a text classifier.

    Its tokenizer may be loaded already; a large one takes seconds.

    Raises:
        CheckpointError: it is missing, damaged, pickled, or incomplete.
    """
    if dtype not in DTYPES:
        raise CheckpointError(reference, f"dtype {dtype!r} is unknown", f"take one of {', '.join(DTYPES)}")
    folder = resolve_checkpoint(reference, cache_dir=cache_dir, on_phase=on_phase)
    config = check_folder(folder)
    is_classifier = names_classifier(config)
    auto_class: Any = AutoModelForSequenceClassification if is_classifier else AutoModelForCausalLM
    on_phase("load", 0.0)
    try:
        with quiet_transformers():
            quantization = config.get("quantization_config")
            if quantization is None:
                model = _load_float_model(folder, DTYPES[dtype], auto_class)
            else:
                model = load_quantized_model(folder, quantization, DTYPES[dtype], auto_class=auto_class)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise CheckpointError(
            str(folder), f"transformers cannot load it ({error})", "give a whole checkpoint"
        ) from error
    if tokenizer is None:
        tokenizer = load_tokenizer(folder)
    if is_classifier:
        _name_padding(model, tokenizer)
    _make_ready(model, device)
    on_phase("load", 1.0)
    return LoadedCheckpoint(model=model, tokenizer=tokenizer, folder=folder, is_classifier=is_classifier)


def build_empty_model(folder: Path) -> PreTrainedModel:
    """Build a checkpoint's model on the meta device: its shapes, without its weights.

    Raises:
        CheckpointError: its config makes no model.
    """
    is_classifier = names_classifier(check_folder(folder))
    auto_class: Any = AutoModelForSequenceClassification if is_classifier else AutoModelForCausalLM
    try:
        with quiet_transformers(), torch.device("meta"):
            empty: PreTrainedModel = auto_class.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ImportError) as error:
        raise CheckpointError(str(folder), f"its config makes no model ({error})", "give a whole checkpoint") from error
    return empty


def names_classifier(config: dict[str, Any]) -> bool:
    """Say whether a checkpoint's config is that of a model that gives labels to texts."""
    architectures = config.get("architectures")
    return isinstance(architectures, list) and any(
        str(name).endswith("ForSequenceClassification") for name in architectures
    )


def _name_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Tell a model its tokenizer's padding: without one, causal models that classify refuse batches."""
    config: Any = model.config.get_text_config()
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id


def _load_float_model(folder: Path, dtype: torch.dtype, auto_class: Any) -> PreTrainedModel:
    # transformers types this as a model alone, although it is a pair when the report is asked for.
    loaded: Any = auto_class.from_pretrained(
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
