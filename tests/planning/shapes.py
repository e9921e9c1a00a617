"""Checkpoints of a known size, with or without weights, and specs of members that run them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ensemble.config import Spec

GIB = 2**30
SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 256,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
LLAMA_8B: dict[str, Any] = {
    **SHAPE,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
LLAMA_8B_WEIGHTS = 8_030_261_248
"""Of meta-llama/Llama-3.1-8B, as its card and its safetensors index count them."""
LLAMA_8B_INNER_LINEAR = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
FP8_BYTES = 2 * LLAMA_8B_WEIGHTS - LLAMA_8B_INNER_LINEAR
"""Of its weights, quantised at load."""


def save_shape(folder: Path, config: Mapping[str, Any] = SHAPE) -> str:
    """Write a checkpoint's folder that has a config and no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def save_weights(folder: Path, tensors: Mapping[str, Any], config: Mapping[str, Any] = SHAPE) -> str:
    """Write a checkpoint's folder with these weights."""
    save_shape(folder, config)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")
    return str(folder)


def dummy_member(name: str, checkpoint: str, *, gpus: float, replicas: int = 1, **engine: object) -> dict[str, Any]:
    """Describe a vLLM member that makes its weights up."""
    return {
        "name": name,
        "family": name,
        "checkpoint": checkpoint,
        "engine": {"type": "vllm", "load_format": "dummy", **engine},
        "resources": {"gpus": gpus},
        "replicas": replicas,
    }


def make_spec(*members: Mapping[str, Any], **parts: object) -> Spec:
    """Make a spec with one ensemble of all members."""
    names = [member["name"] for member in members]
    return Spec.model_validate(
        {"version": 1, "members": list(members), "ensembles": [{"name": "default", "members": names}], **parts}
    )
