"""From a GGUF file to safetensors: dequantised once, because reading GGUF takes half a minute."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import torch
import transformers
from gguf import GGUFReader

from ensemble.checkpoints.quiet import quiet_transformers
from ensemble.checkpoints.tokenizer import find_bos
from ensemble.checkpoints.write import collect_tensors, write_checkpoint
from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from ensemble.checkpoints.progress import OnPhase

_DAMAGED = (ValueError, KeyError, IndexError, RuntimeError, OSError, OverflowError, MemoryError, struct.error)
"""What the GGUF readers raise on a damaged file; they have no error of their own."""


def convert_gguf(file: Path, folder: Path, *, digest: str, on_phase: OnPhase) -> None:
    """Write the float32 checkpoint of a GGUF file into an existing folder.

    Raises:
        CheckpointError: the file is damaged, cut short, or of an architecture that transformers cannot read.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise CheckpointError(str(file), "it does not begin as a GGUF file does", "fetch it again")
    try:
        with quiet_transformers():
            on_phase("dequantise", 0.0)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True, **_dequantised()
            )
            on_phase("tokenizer", 0.0)
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, local_files_only=True
            )
        wants_bos = _wants_bos(file)
    except _DAMAGED as error:
        raise CheckpointError(
            str(file), f"it is damaged, cut short or unsupported ({error})", "fetch it again, or convert it yourself"
        ) from error
    if wants_bos is not None and wants_bos != bool(find_bos(tokenizer)):
        # It rewrites what the tokenizer puts around a text, which is what lies on disk afterwards.
        tokenizer.add_bos_token = wants_bos
    on_phase("write", 0.0)
    write_checkpoint(folder, collect_tensors(model), model=model, tokenizer=tokenizer)
    origin = {"format": "gguf", "file": file.name, "sha256": digest, "transformers": transformers.__version__}
    (folder / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", "utf-8")
    on_phase("write", 1.0)


def _wants_bos(file: Path) -> bool | None:
    """Say whether a text begins with the BOS token, which transformers does not ask the file; None if nothing tells.

    A tokenizer of SentencePiece's kind puts one unless the file says otherwise, as in llama.cpp.
    """
    fields: Any = GGUFReader(file).fields
    if "tokenizer.ggml.add_bos_token" in fields:
        return bool(fields["tokenizer.ggml.add_bos_token"].contents())
    return True if fields["tokenizer.ggml.model"].contents() == "llama" else None


def _dequantised() -> dict[str, Any]:
    """Ask newer transformers for plain weights: with the ``kernels`` package it would keep GGUF's blocks."""
    gguf_config = getattr(transformers, "GgufConfig", None)
    return {} if gguf_config is None else {"quantization_config": gguf_config(dequantize=True)}
