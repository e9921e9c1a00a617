"""How surprised a model is by a text, and how far a variant is from its original on it; each with its spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ensemble.variants.spread import Estimate, estimate_mean
from ensemble.variants.text_reading import TextReading


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFigures:
    """A model on a text. Perplexities of other tokens cannot be compared; bits per byte can."""

    num_tokens: int
    perplexity: Estimate
    bits_per_byte: Estimate
    next_token_accuracy: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class TextComparison:
    """A variant beside its original on the same tokens."""

    perplexity_ratio: Estimate
    agreement: Estimate
    """The share of tokens after which both hold the same one likeliest."""
    kl: Estimate
    """The mean Kullback-Leibler divergence of the variant's next-token distribution from the original's, in nats."""


def measure_text(reading: TextReading) -> TextFigures:
    """Give a model's figures; perplexity is exp of the mean surprise of a token."""
    counts = reading.counts_P
    in_whole_N = reading.is_whole_W[reading.word_N]
    bits_P = reading.per_passage(np.where(in_whole_N, reading.surprise_N, 0.0)) / math.log(2.0)
    bytes_W = np.where(reading.is_whole_W, reading.bytes_W, 0)
    bytes_P = np.bincount(reading.passage_W, weights=bytes_W, minlength=reading.num_passages)
    return TextFigures(
        num_tokens=reading.token_N.size,
        perplexity=estimate_mean(reading.per_passage(reading.surprise_N), counts, is_log=True),
        bits_per_byte=estimate_mean(bits_P, bytes_P),
        next_token_accuracy=estimate_mean(reading.per_passage(reading.is_right_N), counts),
    )


def compare_text(variant: TextReading, original: TextReading) -> TextComparison:
    """Compare two readings of the same passages; the variant's was made beside the original.

    The spread is that of the paired difference: what is hard for both is no difference.
    """
    if variant.kl_N is None or not np.array_equal(variant.token_N, original.token_N):
        raise ValueError("the variant was not read beside this original")
    counts = original.counts_P
    dearer_P = variant.per_passage(variant.surprise_N - original.surprise_N)
    return TextComparison(
        perplexity_ratio=estimate_mean(dearer_P, counts, is_log=True),
        agreement=estimate_mean(variant.per_passage(variant.likeliest_N == original.likeliest_N), counts),
        kl=estimate_mean(variant.per_passage(variant.kl_N), counts),
    )
