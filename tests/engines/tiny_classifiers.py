"""Random text classifiers that are made in a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    FNetConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LABELS = ("negative", "Neutral", "positive")
_NUM_WORDS = 200
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]")
_SIZES: dict[str, Any] = {
    "vocab_size": _NUM_WORDS + len(_SPECIAL),
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def bert_config() -> PreTrainedConfig:
    return BertConfig(num_attention_heads=4, **_SIZES)


def llama_config() -> PreTrainedConfig:
    return LlamaConfig(num_attention_heads=4, bos_token_id=2, eos_token_id=2, **_SIZES)


def fnet_config() -> PreTrainedConfig:
    """Mixes tokens without a mask, so that filling a text up changes what it says."""
    return FNetConfig(tpu_short_seq_length=128, **_SIZES)


def roberta_config() -> PreTrainedConfig:
    """Numbers a text's tokens from the padding token's number + 1 on, so that 127 of 128 positions are left."""
    return RobertaConfig(num_attention_heads=4, **_SIZES)


def gpt2_config() -> PreTrainedConfig:
    """Names no padding token, and then refuses to read two texts together."""
    return GPT2Config(vocab_size=_SIZES["vocab_size"], n_embd=64, n_layer=2, n_head=4, n_positions=128)


def save_classifier(
    folder: Path, config: PreTrainedConfig, *, labels: Sequence[str] = LABELS, has_padding: bool = True
) -> str:
    """Save a random classifier over the words w0 to w199; ``has_padding`` says whether its tokenizer names a token."""
    torch.manual_seed(3)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    build: Any = AutoModelForSequenceClassification.from_config
    build(config).save_pretrained(folder)
    words = [*_SPECIAL, *(f"w{n}" for n in range(_NUM_WORDS))]
    padding, unknown, first = _SPECIAL
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrap: Any = PreTrainedTokenizerFast
    named = {"pad_token": padding} if has_padding else {}
    wrap(tokenizer_object=tokenizer, unk_token=unknown, cls_token=first, **named).save_pretrained(folder)
    return str(folder)
