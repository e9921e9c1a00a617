"""How alike models err: on the next tokens or words of a text, and on labelled items.

Axes: M models, N places (tokens, words or items).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ensemble.calibration.items import LabelledItem
from ensemble.calibration.statistics import disagreement, error_correlation
from ensemble.variants.figures import ClonePair, DiversityFigures
from ensemble.variants.measure_items import is_right
from ensemble.variants.text_reading import TextReading
from ensemble.voting.ballot import Ballot, Vote

CLONE_CORRELATION = 0.85
"""From here on two siblings are called near-clones. Measured on SmolLM2-135M, next tokens: FP8 and W8A8 .91; a 4-bit
variant and one with a repaired width cut .75."""
GOOD_SHARE = 0.8
"""Models that are right at least so often as a share of the best one's may be called alike or not."""


def measure_text_diversity(reading_by_name: Mapping[str, TextReading]) -> DiversityFigures | None:
    """Compare errors on next tokens where all models have the same ones, else on next words; None of less than two."""
    names, readings = tuple(reading_by_name), list(reading_by_name.values())
    if len(names) < 2:
        return None
    has_same_tokens = all(np.array_equal(one.token_N, readings[0].token_N) for one in readings)
    is_right_MN = (
        [one.is_right_N.astype(np.float64) for one in readings]
        if has_same_tokens
        else [one.word_is_right_W for one in readings]
    )
    return DiversityFigures(
        unit="next token" if has_same_tokens else "next word",
        names=names,
        num_places=int(np.isfinite(is_right_MN).all(axis=0).sum()),
        accuracy=_means(is_right_MN),
        correlation=_rows(error_correlation(is_right_MN)),
        disagreement=_rows(_share_of_one_right(is_right_MN)),
    )


def measure_item_diversity(
    votes_by_name: Mapping[str, Sequence[Vote]], items: Sequence[LabelledItem]
) -> DiversityFigures | None:
    """Compare errors and choices on items; silence is left out of a model's pairs. None of less than two models."""
    names, votes = tuple(votes_by_name), list(votes_by_name.values())
    if len(names) < 2:
        return None
    choices = [[vote.choice if isinstance(vote, Ballot) else None for vote in own] for own in votes]
    is_right_MN = [
        [
            float(is_right(vote, item)) if isinstance(vote, Ballot) else np.nan
            for vote, item in zip(own, items, strict=True)
        ]
        for own in votes
    ]
    return DiversityFigures(
        unit="item",
        names=names,
        num_places=len(items),
        accuracy=_means(is_right_MN),
        correlation=_rows(error_correlation(is_right_MN)),
        disagreement=_rows(disagreement(choices)),
    )


def find_clones(diversity: Sequence[DiversityFigures], family_by_name: Mapping[str, str]) -> tuple[ClonePair, ...]:
    """Find siblings that err alike, by the first of the figures in which both are; the most alike first."""
    pairs: dict[tuple[str, str], ClonePair] = {}
    for figures in diversity:
        for first, second in combinations(range(len(figures.names)), 2):
            one, other = figures.names[first], figures.names[second]
            correlation = figures.correlation[first][second]
            if family_by_name[one] == family_by_name[other] and (one, other) not in pairs:
                pairs[one, other] = ClonePair(first=one, second=other, unit=figures.unit, correlation=correlation)
    clones = [pair for pair in pairs.values() if pair.correlation >= CLONE_CORRELATION]
    return tuple(sorted(clones, key=lambda pair: pair.correlation, reverse=True))


def write_remarks(
    diversity: Sequence[DiversityFigures], clones: Sequence[ClonePair], family_by_name: Mapping[str, str]
) -> tuple[str, ...]:
    """Say what the figures mean for a vote."""
    remarks = [
        f"{pair.first} and {pair.second} are near-clones: their {hyphenate(pair.unit)} errors correlate "
        f"{pair.correlation:.2f}. Never vote them against each other."
        for pair in clones
    ]
    if diversity and len(set(family_by_name.values())) == 1:
        remarks.append(
            "All of these come from one base. Siblings share most of their errors; what errs differently is a variant "
            "of another base, or one made with other calibration data or asked with another prompt."
        )
    remarks += [_tell_least_alike(figures) for figures in diversity[:1] if len(_good_ones(figures)) > 2]
    return tuple(remarks)


def hyphenate(unit: str) -> str:
    """Write what was right or wrong before a noun."""
    return unit.replace(" ", "-")


def _good_ones(figures: DiversityFigures) -> list[int]:
    """Give the places of the models that are about as often right as the best: others correlate less by that alone."""
    least = GOOD_SHARE * max(figures.accuracy)
    return [place for place, accuracy in enumerate(figures.accuracy) if accuracy >= least]


def _tell_least_alike(figures: DiversityFigures) -> str:
    pairs = combinations(_good_ones(figures), 2)
    first, second = min(pairs, key=lambda pair: figures.correlation[pair[0]][pair[1]])
    return (
        f"Of those that are about as often right, {figures.names[first]} and {figures.names[second]} are the least "
        f"alike: their {hyphenate(figures.unit)} errors correlate {figures.correlation[first][second]:.2f}."
    )


def _means(is_right_MN: Sequence[ArrayLike]) -> tuple[float, ...]:
    return tuple(map(float, np.nanmean(np.asarray(is_right_MN, dtype=np.float64), axis=1)))


def _share_of_one_right(is_right_MN: Sequence[ArrayLike]) -> NDArray[np.float64]:
    values = np.asarray(is_right_MN, dtype=np.float64)
    shares = np.zeros((len(values), len(values)))
    for first, second in combinations(range(len(values)), 2):
        apart = np.abs(values[first] - values[second])
        shares[first, second] = shares[second, first] = np.nanmean(apart)
    return shares


def _rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in matrix)
