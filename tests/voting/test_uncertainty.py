"""Entropy over answers, and a member's weight from its own agreement."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ensemble.errors import InvalidRequestError
from ensemble.voting.uncertainty import consistency_weight, semantic_entropy

VECTORS: dict[str, list[tuple[list[int], float]]] = json.loads(
    (Path(__file__).parent / "vectors" / "uncertainty.json").read_text()
)


@pytest.mark.parametrize(("counts", "entropy"), VECTORS["semantic_entropy"])
def test_entropy_over_clusters_is_the_published_one(counts: list[int], entropy: float) -> None:
    assert semantic_entropy(counts) == pytest.approx(entropy, abs=1e-6)
    assert math.copysign(1.0, semantic_entropy(counts)) == 1.0


@pytest.mark.parametrize(("counts", "weight"), VECTORS["consistency_weight"])
def test_a_consistent_member_weighs_as_published(counts: list[int], weight: float) -> None:
    assert consistency_weight(counts) == pytest.approx(weight, abs=1e-6)


def test_a_cluster_of_no_weight_changes_nothing() -> None:
    assert semantic_entropy([2.5, 0.0, 1.5]) == semantic_entropy([2.5, 1.5])
    assert consistency_weight([3, 0, 1]) == consistency_weight([3, 1])


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -0.5], [float("nan")], [float("inf")]])
def test_weights_that_are_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(InvalidRequestError, match="weights"):
        semantic_entropy(weights)
