"""Whether two checkpoints read and write the same tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ensemble.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerFast

_PROBES = (
    "The quick brown fox, 1234567890 times.",
    "  leading and trailing  \n\n\ttabs\r\n",
    "naïve café ﬁne Ⅷ e\u0301 ",
    "日本語 Ελληνικά русский العربية 🦜👩‍🔬",
    "def f(x): return {'a': x**2}  # don't",
)
"""Texts that normalisers and pre-tokenizers treat differently."""


def check_same_tokens(
    first: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast, *, names: tuple[str, str]
) -> None:
    """Compare what two tokenizers do: tokens by number, merges, special tokens, and how they cut texts.

    What only the first one is used for may differ: the chat template, and which special tokens it adds to a prompt.

    Raises:
        CheckpointError: they differ; every difference is named with its figures.
    """
    problems = [
        problem
        for problem in (
            _compare_vocabularies(first, other),
            _compare_merges(first, other),
            _compare_specials(first, other),
            _compare_cuts(first, other),
        )
        if problem
    ]
    if problems:
        raise CheckpointError(
            names[1],
            f"its tokenizer is not that of {names[0]}: {'; '.join(problems)}",
            "fuse checkpoints of one base model",
        )


def check_head(tokenizer: PreTrainedTokenizerFast, num_rows: int, *, name: str) -> None:
    """Compare a checkpoint's head with its tokenizer: rows beyond are padding, too few are none to mix with.

    Raises:
        CheckpointError: the head has no row for some token.
    """
    largest = max(tokenizer.get_vocab().values())
    if largest >= num_rows:
        raise CheckpointError(
            name,
            f"its head has {num_rows} rows, and the group's tokenizer has tokens up to number {largest}",
            "fuse checkpoints whose heads know every token",
        )


def _compare_vocabularies(first: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> str:
    texts, others = ({n: text for text, n in t.get_vocab().items()} for t in (first, other))
    return _describe("tokens", texts, others)


def _compare_specials(first: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> str:
    specials, others = (
        {n: token.content for n, token in t.added_tokens_decoder.items() if token.special} for t in (first, other)
    )
    return _describe("special tokens", specials, others)


def _compare_merges(first: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> str:
    merges, others = (dict(enumerate(_merges(t))) for t in (first, other))
    return _describe("merges", merges, others)


def _merges(tokenizer: PreTrainedTokenizerFast) -> list[Any]:
    merges: list[Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("merges", [])
    return merges


def _compare_cuts(first: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> str:
    for probe in _PROBES:
        cut, other_cut = (t.backend_tokenizer.encode(probe, add_special_tokens=False).ids for t in (first, other))
        if cut != other_cut:
            return f"it cuts {probe!r} into {len(other_cut)} tokens, not into the same {len(cut)}"
    return ""


def _describe(what: str, first: Mapping[int, Any], other: Mapping[int, Any]) -> str:
    """Count the numbers that stand for something else, and show the first of them; empty when none does."""
    differing = [n for n in sorted(first.keys() | other.keys()) if first.get(n) != other.get(n)]
    if not differing:
        return ""
    n = differing[0]
    return (
        f"{len(differing)} of {max(len(first), len(other))} {what} differ "
        f"(number {n} is {other.get(n)!r}, not {first.get(n)!r})"
    )
