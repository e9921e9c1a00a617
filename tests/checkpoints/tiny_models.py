"""Small random checkpoints, written to disk in a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ensemble.compression.calibration_sources import read_own_text

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN = 32
INTERMEDIATE = 64
_SHAPE: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 512,
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train a word tokenizer on the calibration text."""
    special_by_role = {f"{role}_token": f"<{role}>" for role in ("pad", "bos", "eos", "unk")}
    tokenizer = Tokenizer(models.WordLevel(unk_token=special_by_role["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=list(special_by_role.values()), vocab_size=500)
    tokenizer.train_from_iterator([read_own_text()], trainer)
    fast: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = fast(tokenizer_object=tokenizer, **special_by_role)
    return wrapped


def build_llama(*, num_layers: int = 4, tied: bool = True) -> PreTrainedModel:
    """Build a random Llama that fits ``build_tokenizer``."""
    torch.manual_seed(7)
    config = LlamaConfig(vocab_size=500, num_hidden_layers=num_layers, tie_word_embeddings=tied, **_SHAPE)
    return LlamaForCausalLM(config)  # type: ignore[no-untyped-call]


def build_gemma3(*, num_layers: int = 4) -> PreTrainedModel:
    """Build a random Gemma 3 whose last layer alone attends to everything."""
    torch.manual_seed(7)
    config = Gemma3TextConfig(
        vocab_size=500,
        num_hidden_layers=num_layers,
        layer_types=["sliding_attention"] * (num_layers - 1) + ["full_attention"],
        sliding_window=8,
        query_pre_attn_scalar=8,
        **_SHAPE,
    )
    return Gemma3ForCausalLM(config)


def save(model: PreTrainedModel, folder: Path) -> str:
    """Write a model with its tokenizer as transformers does; give the reference."""
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(folder)


def write_tiny_gguf(path: Path, *, add_bos: bool | None = None, is_sentence_piece: bool = False) -> Path:
    """Write a random one-layer Llama as GGUF, whose tokenizer may say whether texts begin with BOS."""
    letters = [chr(code) for code in range(33, 127)] + ["▁" if is_sentence_piece else "Ġ"]
    tokens = ["<unk>", "<s>", "</s>", *letters, "th", "the"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    if is_sentence_piece:
        writer.add_tokenizer_model("llama")
        # What comes later in the list is merged later.
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    _add_random_tensors(writer, num_tokens=len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_random_tensors(writer: gguf.GGUFWriter, *, num_tokens: int) -> None:
    random = np.random.default_rng(7)
    shapes = {
        "token_embd": (num_tokens, HIDDEN),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (HIDDEN // 2, HIDDEN),
        "blk.0.attn_v": (HIDDEN // 2, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_up": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, INTERMEDIATE),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.ffn_norm": (HIDDEN,),
        "output_norm": (HIDDEN,),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(scale=0.3, size=shape).astype(np.float32))
