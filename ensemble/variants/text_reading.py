"""What a model makes of a text, token by token and word by word.

Axes: P passages, N predicted tokens of all passages, W words of all passages, T tokens of one passage, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ensemble.errors import ConfigError
from ensemble.variants.passages import word_ends
from ensemble.variants.text_reader import TextReader

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class TextReading:
    """Every token that the model predicted, in order: what came, what the model held likeliest, and its surprise.

    Words are pieces of text up to the next space, the same for every model; the tokens of a word are those that end
    in it. ``surprise_N`` and ``kl_N`` are in nats; ``kl_N`` is how far the original's distribution is from this one,
    and None without an original.
    """

    num_passages: int
    passage_N: Ints
    token_N: Ints
    likeliest_N: Ints
    surprise_N: Floats
    word_N: Ints
    passage_W: Ints
    bytes_W: Ints
    is_whole_W: Bools
    """Whether the model predicted all of the word; the first one of a passage may have nothing before it."""
    kl_N: Floats | None = None

    @property
    def is_right_N(self) -> Bools:
        """Whether the likeliest token was the one that came."""
        return np.asarray(self.token_N == self.likeliest_N)

    @property
    def counts_P(self) -> Floats:
        """Predicted tokens by passage."""
        return self.per_passage(np.ones(self.token_N.size))

    @property
    def word_is_right_W(self) -> Floats:
        """Give 1 for a word all of whose tokens were likeliest, 0 for another, nan for one that is not whole."""
        num_wrong_W = np.bincount(self.word_N, weights=~self.is_right_N, minlength=self.bytes_W.size)
        return np.where(self.is_whole_W, num_wrong_W == 0, np.nan)

    def per_passage(self, values_N: Floats | Bools) -> Floats:
        """Sum up a figure of each token by passage."""
        return np.asarray(np.bincount(self.passage_N, weights=values_N, minlength=self.num_passages), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPassage:
    """A passage's tokens; the word of each but the first, which nothing predicts; and the words' bytes.

    The first token is BOS where the tokenizer puts one, or else the text's own first one, whose word is not whole.
    """

    tokens: tuple[int, ...]
    words: tuple[int, ...]
    word_bytes: tuple[int, ...]
    word_is_whole: tuple[bool, ...]


def encode_passage(reader: TextReader, passage: str) -> EncodedPassage:
    """Encode a passage as the reader's tokenizer does it, BOS token and all; what is beyond its context is left out.

    Raises:
        ConfigError: the model lacks one of the tokens.
    """
    bos, plain = reader.bos, reader.tokenizer(passage, add_special_tokens=False, return_offsets_mapping=True)
    ends = word_ends(passage)
    tokens = (*bos, *plain["input_ids"])[: reader.max_context]
    # A token belongs to the word that its last character is in.
    words = [bisect_left(ends, max(end, start + 1)) for start, end in plain["offset_mapping"]]
    if (beyond := max(tokens)) >= reader.num_tokens:
        problem = f"the text has token {beyond}, and the model has {reader.num_tokens} tokens"
        raise ConfigError(reader.reference, problem, "give it its own tokenizer")
    predicted = words[: len(tokens) - len(bos)] if bos else words[1 : len(tokens)]
    unseen = set(words[len(tokens) - len(bos) :]) | (set() if bos else {words[0]})
    starts = [0, *ends[:-1]]
    return EncodedPassage(
        tokens=tokens,
        words=tuple(predicted),
        word_bytes=tuple(len(passage[start:end].encode()) for start, end in zip(starts, ends, strict=True)),
        word_is_whole=tuple(word in set(predicted) - unseen for word in range(len(ends))),
    )


def read_text(reader: TextReader, passages: Sequence[str], *, original: TextReader | None = None) -> TextReading:
    """Have a model predict every token of the passages; beside its original, compare their distributions, too.

    Raises:
        ConfigError: the original has other tokens, or the model lacks one.
    """
    parts = []
    num_words = 0
    for number, passage in enumerate(passages):
        encoded = encode_passage(reader, passage)
        if original is not None and encode_passage(original, passage).tokens != encoded.tokens:
            raise ConfigError(reader.reference, "its tokens are not those of its original", "give the right original")
        parts.append(_read_passage(reader, encoded, original, number=number, first_word=num_words))
        num_words += len(encoded.word_bytes)
    return TextReading(
        num_passages=len(passages),
        **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
    )


def measure_decoding_drift(reader: TextReader, passage: str) -> float:
    """Give the mean KL of what a model gives a few tokens at a time, as in decoding, from what it gives at once."""
    tokens = encode_passage(reader, passage).tokens
    return float(_diverge(reader.read(tokens), reader.read_in_pieces(tokens)).mean())


def _read_passage(
    reader: TextReader, encoded: EncodedPassage, original: TextReader | None, *, number: int, first_word: int
) -> dict[str, Ints | Floats | Bools]:
    logprobs_TV = reader.read(encoded.tokens)[:-1]
    token_T = torch.tensor(encoded.tokens[1:])
    read: dict[str, Ints | Floats | Bools] = {
        "passage_N": np.full(token_T.numel(), number),
        "token_N": token_T.numpy(),
        "likeliest_N": logprobs_TV.argmax(dim=-1).cpu().numpy(),
        "surprise_N": -logprobs_TV.cpu().gather(1, token_T[:, None])[:, 0].double().numpy(),
        "word_N": np.array(encoded.words) + first_word,
        "passage_W": np.full(len(encoded.word_bytes), number),
        "bytes_W": np.array(encoded.word_bytes),
        "is_whole_W": np.array(encoded.word_is_whole),
    }
    if original is not None:
        read["kl_N"] = _diverge(original.read(encoded.tokens)[:-1], logprobs_TV)
    return read


def _diverge(original_TV: torch.Tensor, variant_TV: torch.Tensor) -> Floats:
    """Give the Kullback-Leibler divergence of the variant's distributions from the original's, in nats."""
    if original_TV.shape != variant_TV.shape:
        sizes = f"{variant_TV.shape[1]} tokens, its original {original_TV.shape[1]}"
        raise ConfigError("variant", f"it has {sizes}", "give the right original")
    original_TV = original_TV.to(variant_TV.device)
    kl_T = (original_TV.exp() * (original_TV - variant_TV)).sum(dim=-1)
    kl: Floats = kl_T.double().cpu().numpy()
    return kl
