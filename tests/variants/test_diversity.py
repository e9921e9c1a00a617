"""Errors correlate as scipy says, and siblings that err alike are called near-clones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ensemble.calibration.items import LabelledItem
from ensemble.variants.diversity import find_clones, measure_item_diversity, measure_text_diversity, write_remarks
from ensemble.variants.text_reading import TextReading
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote

RANDOM = np.random.default_rng(5)
NUM_TOKENS = 400
WORDS = np.repeat(np.arange(NUM_TOKENS // 2), 2)


def reading(is_right: np.ndarray[tuple[int], np.dtype[np.bool_]], *, tokens: int = 0) -> TextReading:
    """Make a reading of words of two tokens each; ``tokens`` tells tokenizers apart."""
    token_N = np.full(NUM_TOKENS, tokens)
    return TextReading(
        num_passages=1,
        passage_N=np.zeros(NUM_TOKENS, dtype=np.int64),
        token_N=token_N,
        likeliest_N=np.where(is_right, token_N, -1),
        surprise_N=np.ones(NUM_TOKENS),
        word_N=WORDS,
        passage_W=np.zeros(NUM_TOKENS // 2, dtype=np.int64),
        bytes_W=np.full(NUM_TOKENS // 2, 4),
        is_whole_W=np.ones(NUM_TOKENS // 2, dtype=np.bool_),
    )


BASE = RANDOM.random(NUM_TOKENS) < 0.4
CLONE = np.where(RANDOM.random(NUM_TOKENS) < 0.02, ~BASE, BASE)
OTHER = np.where(RANDOM.random(NUM_TOKENS) < 0.3, RANDOM.random(NUM_TOKENS) < 0.4, BASE)


def test_next_token_errors_correlate_as_scipy_says() -> None:
    figures = measure_text_diversity({"base": reading(BASE), "clone": reading(CLONE), "other": reading(OTHER)})

    assert figures is not None
    assert (figures.unit, figures.num_places) == ("next token", NUM_TOKENS)
    assert figures.correlation[0][2] == pytest.approx(stats.pearsonr(BASE, OTHER).statistic)
    assert (
        figures.correlation[0][1] == figures.correlation[1][0] == pytest.approx(stats.pearsonr(BASE, CLONE).statistic)
    )
    assert figures.disagreement[0][2] == pytest.approx(np.mean(BASE != OTHER))
    assert figures.accuracy[0] == pytest.approx(BASE.mean())


def test_models_with_other_tokens_are_compared_by_words_of_which_every_token_must_be_right() -> None:
    first, second = reading(BASE), replace(reading(OTHER, tokens=7))
    second.is_whole_W[0] = False

    figures = measure_text_diversity({"base": first, "other": second})

    words, others = (np.all(np.reshape(right, (-1, 2))[1:], axis=1) for right in (BASE, OTHER))
    assert figures is not None
    assert (figures.unit, figures.num_places) == ("next word", NUM_TOKENS // 2 - 1)
    assert figures.correlation[0][1] == pytest.approx(stats.pearsonr(words, others).statistic)
    assert figures.disagreement[0][1] == pytest.approx(np.mean(words != others))


def test_item_figures_leave_silence_out() -> None:
    items = [LabelledItem(item_id=str(n), prompt=str(n), choices=("a", "b"), answer=n % 2) for n in range(40)]
    first: list[Vote] = [Ballot(member="x", choice="ab"[int(RANDOM.random() < 0.5)]) for _ in items]
    second: list[Vote] = [Ballot(member="y", choice="ab"[int(RANDOM.random() < 0.5)]) for _ in items]
    second[3] = Abstention(member="y", reason=AbstentionReason.ERROR)

    figures = measure_item_diversity({"x": first, "y": second}, items)

    kept = [n for n in range(40) if n != 3]
    chosen = [[vote.choice for n in kept if isinstance(vote := one[n], Ballot)] for one in (first, second)]
    rights = [[choice == "ab"[n % 2] for n, choice in zip(kept, one, strict=True)] for one in chosen]
    assert figures is not None
    assert figures.correlation[0][1] == pytest.approx(stats.pearsonr(*rights).statistic)
    assert figures.disagreement[0][1] == pytest.approx(np.mean(np.array(chosen[0]) != np.array(chosen[1])))


def test_siblings_that_err_alike_are_near_clones_and_strangers_are_not() -> None:
    figures = measure_text_diversity({"base": reading(BASE), "clone": reading(CLONE), "other": reading(OTHER)})
    assert figures is not None

    siblings = dict.fromkeys(figures.names, "one")
    clones = find_clones([figures], siblings)
    remarks = write_remarks([figures], clones, siblings)

    assert [(pair.first, pair.second) for pair in clones] == [("base", "clone")]
    assert "Never vote them against each other." in remarks[0]
    assert "All of these come from one base." in remarks[1]
    assert find_clones([figures], {"base": "one", "clone": "two", "other": "one"}) == ()


def test_the_least_alike_are_sought_among_those_that_are_about_as_often_right() -> None:
    bad = RANDOM.random(NUM_TOKENS) < 0.1
    figures = measure_text_diversity(
        {"base": reading(BASE), "clone": reading(CLONE), "other": reading(OTHER), "bad": reading(bad)}
    )
    assert figures is not None

    remarks = write_remarks([figures], (), {"base": "one", "clone": "one", "other": "two", "bad": "two"})

    assert len(remarks) == 1
    assert "other" in remarks[0]
    assert "bad" not in remarks[0]


def test_one_model_has_no_diversity() -> None:
    assert measure_text_diversity({"base": reading(BASE)}) is None
    assert measure_item_diversity({}, ()) is None
