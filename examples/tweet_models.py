"""Four small text classifiers that differ in architecture and in how they cut text, trained from nothing.

Axes: B texts, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from tweet_data import LABELS, Tweet

PAD, UNK, CLS, SEP = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WIDTH = 128
MAX_TOKENS = 256
BATCH = 64
_LEARNING_RATE = 1e-3
_DROPOUT = 0.3
_WARM_UP_SHARE = 0.1
_LINK = normalizers.Replace(Regex(r"https?://\S+"), " url ")
_USER = normalizers.Replace(Regex(r"@\w+"), " @user ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One classifier: its tokenizer before training, that tokenizer's trainer, its config by vocabulary, its epochs."""

    name: str
    tokenizer: Tokenizer
    trainer: trainers.Trainer
    config: Callable[[dict[str, Any]], PreTrainedConfig]
    epochs: int


def build_recipes() -> tuple[Recipe, ...]:
    """Give the four that were chosen among thirty by the calibration part: good alone, and wrong on other tweets."""
    return _bert_words(), _modernbert_trigrams(), _llama_bytes(), _albert_pieces()


def _bert_words() -> Recipe:
    return Recipe(
        name="bert-words",
        tokenizer=_build_tokenizer(
            models.WordLevel(unk_token=UNK),
            pre_tokenizers.Split(Regex(r"[@#]?\w+(?:['\u2019]\w+)?|[^\w\s]+"), "removed", invert=True),
        ),
        trainer=trainers.WordLevelTrainer(vocab_size=10_000, min_frequency=3, special_tokens=list(SPECIAL)),
        config=lambda sizes: BertConfig(num_hidden_layers=1, hidden_dropout_prob=_DROPOUT, **sizes),
        epochs=3,
    )


def _modernbert_trigrams() -> Recipe:
    return Recipe(
        name="modernbert-trigrams",
        tokenizer=_build_tokenizer(
            models.WordLevel(unk_token=UNK),
            pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex(".{1,3}"), "isolated")]),
            _USER,
        ),
        trainer=trainers.WordLevelTrainer(vocab_size=8_000, min_frequency=3, special_tokens=list(SPECIAL)),
        config=lambda sizes: ModernBertConfig(
            num_hidden_layers=2,
            classifier_pooling="mean",
            local_attention=16,
            global_attn_every_n_layers=2,
            cls_token_id=2,
            sep_token_id=3,
            embedding_dropout=_DROPOUT,
            mlp_dropout=_DROPOUT,
            classifier_dropout=_DROPOUT,
            **sizes,
        ),
        epochs=4,
    )


def _llama_bytes() -> Recipe:
    return Recipe(
        name="llama-bytes",
        tokenizer=_build_byte_tokenizer(),
        trainer=trainers.BpeTrainer(
            vocab_size=4_000,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
        config=lambda sizes: LlamaConfig(num_hidden_layers=2, attention_dropout=0.1, **sizes),
        epochs=3,
    )


def _albert_pieces() -> Recipe:
    return Recipe(
        name="albert-pieces",
        tokenizer=_build_tokenizer(models.Unigram(), pre_tokenizers.Metaspace(), _USER),
        trainer=trainers.UnigramTrainer(
            vocab_size=8_000, special_tokens=list(SPECIAL), unk_token=UNK, show_progress=False
        ),
        config=lambda sizes: AlbertConfig(
            num_hidden_layers=2,
            embedding_size=64,
            hidden_dropout_prob=_DROPOUT,
            classifier_dropout_prob=_DROPOUT,
            attention_probs_dropout_prob=0.1,
            **sizes,
        ),
        epochs=4,
    )


def train(
    recipe: Recipe, tweets: Sequence[Tweet], *, seed: int, on_step: Callable[[int, int], None]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Train tokenizer and classifier, the same for the same seed; ``on_step`` hears the steps done and their number."""
    torch.manual_seed(seed)
    tokenizer = _train_tokenizer(recipe, tweets)
    model = _build_model(recipe, vocab_size=len(tokenizer))
    texts = tokenizer([tweet.text for tweet in tweets], truncation=True, max_length=MAX_TOKENS)["input_ids"]
    label_of = np.array([tweet.label for tweet in tweets])
    random = np.random.default_rng(seed)
    num_steps = recipe.epochs * math.ceil(len(tweets) / BATCH)
    optimizer = torch.optim.AdamW(_weight_groups(model), lr=_LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (_WARM_UP_SHARE * num_steps)) * max(0.0, 1 - step / num_steps)
    )
    model.train()
    done = 0
    for _ in range(recipe.epochs):
        for batch in _shuffle_batches([len(text) for text in texts], random):
            logits_BL = model(**_pad([texts[i] for i in batch])).logits
            loss = functional.cross_entropy(logits_BL, torch.from_numpy(label_of[batch]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            on_step(done, num_steps)
    return model.eval(), tokenizer


@torch.inference_mode()
def predict(model: Any, tokenizer: Any, tweets: Sequence[Tweet]) -> NDArray[np.float64]:
    """Give each tweet's log-probabilities: [tweets, labels]."""
    texts = tokenizer([tweet.text for tweet in tweets], truncation=True, max_length=MAX_TOKENS)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    logprobs = np.empty((len(texts), len(LABELS)))
    for start in range(0, len(order), 4 * BATCH):
        batch = order[start : start + 4 * BATCH]
        logits_BL = model(**_pad([texts[i] for i in batch])).logits
        logprobs[batch] = logits_BL.double().log_softmax(-1).numpy()
    return logprobs


def _build_tokenizer(
    model: models.Model, cut: pre_tokenizers.PreTokenizer, *also_replaced: normalizers.Normalizer
) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), _LINK, *also_replaced]
    )
    tokenizer.pre_tokenizer = cut
    return tokenizer


def _build_byte_tokenizer() -> Tokenizer:
    """Keep case and everything else: byte-pair encoding of the text as it stands."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def _train_tokenizer(recipe: Recipe, tweets: Sequence[Tweet]) -> PreTrainedTokenizerFast:
    tokenizer = recipe.tokenizer
    tokenizer.train_from_iterator((tweet.text for tweet in tweets), recipe.trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", special_tokens=[(CLS, SPECIAL.index(CLS)), (SEP, SPECIAL.index(SEP))]
    )
    fast: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = fast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        cls_token=CLS,
        sep_token=SEP,
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
    )
    return wrapped


def _build_model(recipe: Recipe, *, vocab_size: int) -> PreTrainedModel:
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "pad_token_id": SPECIAL.index(PAD),
        "bos_token_id": SPECIAL.index(CLS),
        "eos_token_id": SPECIAL.index(SEP),
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
    }
    build: Any = AutoModelForSequenceClassification.from_config
    model: PreTrainedModel = build(recipe.config(sizes))
    return model


def _weight_groups(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Let matrices decay, but not biases and norms."""
    parameters = list(model.parameters())
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": 0.05},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _shuffle_batches(lengths: Sequence[int], random: np.random.Generator) -> list[list[int]]:
    """Draw batches of texts of similar length: sorted within chunks of twenty batches, so that little is filled up."""
    order = random.permutation(len(lengths)).tolist()
    batches = []
    for start in range(0, len(order), 20 * BATCH):
        chunk = sorted(order[start : start + 20 * BATCH], key=lambda i: lengths[i])
        batches += [chunk[i : i + BATCH] for i in range(0, len(chunk), BATCH)]
    return [batches[i] for i in random.permutation(len(batches))]


def _pad(texts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, texts))
    padding = SPECIAL.index(PAD)
    return {
        "input_ids": torch.tensor([[*text, *[padding] * (longest - len(text))] for text in texts]),
        "attention_mask": torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts]),
    }
