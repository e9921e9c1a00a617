"""One way to write a checkpoint, so that equal weights make equal files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from ensemble.checkpoints.int8_format import FORMAT, pack_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def collect_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """List a model's weights by name; of tied ones only the first is kept, as transformers expects."""
    tied = set(model.all_tied_weights_keys)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items() if name not in tied}


def write_checkpoint(
    folder: Path,
    tensors: dict[str, Tensor],
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    quantization: dict[str, Any] | None = None,
) -> None:
    """Write weights, configs and tokenizer into an existing folder; int8 ones are packed where the format says so."""
    config = model.config.to_diff_dict() | {"architectures": [type(model).__name__]}
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    if quantization is not None:
        config["quantization_config"] = quantization
        if quantization["format"] == FORMAT:
            tensors = pack_tensors(tensors)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    # Classifiers have none.
    generation_config = getattr(model, "generation_config", None)
    if generation_config is not None:
        generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file(dict(sorted(tensors.items())), folder / "model.safetensors", metadata={"format": "pt"})
