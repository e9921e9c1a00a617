"""Checkpoints that are made in a moment: random ones, and one that says what it is told to say."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ensemble.checkpoints.write import collect_tensors, write_checkpoint
from ensemble.compression.steps.quantize_int4 import QuantizeInt4
from tests.compression.step_contexts import build_context

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PARROT_TEXT = "abé€🦜z, 0!"
BOS, EOS, UNK = "<s>", "</s>", "<unk>"
NUM_WORDS = 200
SLIDING_WINDOW = 8
MODEL_CONTEXT = 4096
# Wide enough that logits differ by far more than rounding.
_INIT_STD = 0.3


def save_random_llama(
    folder: Path, *, seed: int = 0, num_words: int = NUM_WORDS, num_padding_rows: int = 0, **sizes: Any
) -> str:
    """Save a random Llama over the words w0 to w199, or fewer; its head may have rows that are no tokens."""
    torch.manual_seed(seed)
    own_sizes = {**_sizes(num_words + 3 + num_padding_rows), **sizes}
    model = LlamaForCausalLM(LlamaConfig(**own_sizes, initializer_range=_INIT_STD))  # type: ignore[no-untyped-call]
    return _save(model, _word_tokenizer(num_words), folder)


def save_random_gemma(folder: Path) -> str:
    """Save a random Gemma 3 over the same words, whose first layer sees a sliding window only."""
    torch.manual_seed(1)
    config = Gemma3TextConfig(
        **_sizes(NUM_WORDS + 3),
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=SLIDING_WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=_INIT_STD,
    )
    return _save(Gemma3ForCausalLM(config), _word_tokenizer(), folder)


def save_few_bits_llama(folder: Path, **sizes: Any) -> str:
    """Save a random Llama over the same words whose layers have 4 bits, its down projections and its head 8.

    Its layers are large enough for a CPU's 4-bit product.
    """
    torch.manual_seed(3)
    own_sizes = {**_sizes(NUM_WORDS + 3), "hidden_size": 128, "intermediate_size": 192, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**{**own_sizes, **sizes}, initializer_range=_INIT_STD))  # type: ignore[no-untyped-call]
    step = QuantizeInt4(group_size=32, int8=("down_proj",), quantize_head=True)
    rounded = step.take(model, build_context())
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(
        folder, collect_tensors(model), model=model, tokenizer=_word_tokenizer(), quantization=rounded.quantization
    )
    return str(folder)


def save_parrot(folder: Path, text: str, *, broken_by: str = "", **sizes: Any) -> str:
    """Save a model that, after byte i of ``text``, says byte i + 1, and EOS after the last; each byte is a token.

    The bytes of ``text`` must differ. The character ``broken_by`` makes its logits NaN.
    """
    tokenizer = _byte_tokenizer()
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    torch.manual_seed(2)
    config = LlamaConfig(**{**_sizes(len(tokenizer)), **sizes}, initializer_range=1.0)
    model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        # A token's own embedding is what its hidden state resembles most.
        model.lm_head.weight.zero_()
        for token, following in itertools.pairwise(ids):
            model.lm_head.weight[following] = 10 * model.model.embed_tokens.weight[token]
        if broken_by:
            model.model.embed_tokens.weight[tokenizer.encode(broken_by, add_special_tokens=False)] = torch.nan
    return _save(model, tokenizer, folder)


def _sizes(vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MODEL_CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }


def _word_tokenizer(num_words: int = NUM_WORDS) -> PreTrainedTokenizerFast:
    words = [BOS, EOS, UNK, *(f"w{n}" for n in range(num_words))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, unk_token=UNK)  # type: ignore[no-untyped-call]


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    symbols: Sequence[str] = [BOS, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: n for n, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)  # type: ignore[no-untyped-call]


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
