"""Texts that mean the same vote together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import entropy

from ensemble.voting import DecidedBy, Decision, Vote
from ensemble.voting.semantic import Linkage, SemanticVote, cluster_texts, semantic_entropy
from ensemble.voting.strategy import Evidence
from tests.voting.panels import build_question, decide, text


def at(*degrees: float) -> tuple[tuple[float, float], ...]:
    return tuple((math.cos(math.radians(angle)), math.sin(math.radians(angle))) for angle in degrees)


def cosines_of(angle_by_text: dict[str, float]) -> dict[tuple[str, str], float]:
    return {
        (one, other): math.cos(math.radians(angle_by_text[one] - angle_by_text[other]))
        for one in angle_by_text
        for other in angle_by_text
    }


def vote(weights: list[float], angle_by_text: dict[str, float], votes: Sequence[Vote]) -> Decision:
    evidence = Evidence(texts=tuple(angle_by_text), embeddings=at(*angle_by_text.values()))
    return decide("semantic_text_vote", replace(build_question(weights, ()), evidence=evidence), votes)


def test_two_ways_of_saying_it_beat_the_heavier_text() -> None:
    angles = {"A big city": 0.0, "Large town": 10.0, "A river": 90.0}

    decision = vote([1.0, 1.0, 1.5], angles, [text(n, words) for n, words in enumerate(angles)])

    assert [(c.answer, c.members) for c in decision.candidates] == [
        ("A big city", ("m0", "m1")),
        ("A river", ("m2",)),
    ]
    assert decision.agreement == pytest.approx(2 / 3.5)
    assert decision.margin == pytest.approx(0.5 / 3.5)


def test_the_medoid_is_nearest_to_its_cluster_by_weight() -> None:
    angles = {"left": -12.0, "middle": 0.0, "right": 12.0}
    votes = [text(n, words) for n, words in enumerate(angles)]

    equal, heavy = vote([1.0, 1.0, 1.0], angles, votes), vote([1.0, 1.0, 9.0], angles, votes)

    assert (equal.answer, heavy.answer) == ("middle", "right")
    assert (equal.agreement, heavy.agreement) == (1.0, 1.0)


def test_of_two_texts_the_heavier_names_the_cluster_and_then_the_one_that_sorts_first() -> None:
    angles = {"zebra": 0.0, "horse": 5.0}
    votes = [text(n, words) for n, words in enumerate(angles)]

    assert vote([2.0, 1.0], angles, votes).answer == "zebra"
    assert vote([1.0, 1.0], angles, votes).answer == "horse"
    assert vote([2.0, 1.0], dict.fromkeys(angles, 0.0), votes).answer == "zebra"


def test_short_answers_are_read_before_they_are_compared() -> None:
    evidence = Evidence(texts=("big cat", "lion", "fish"), embeddings=at(0.0, 5.0, 90.0))
    votes = [text(0, "The answer is a Big Cat."), text(1, "Lion\nbecause"), text(2, "fish")]

    decision = decide("semantic_vote", replace(build_question([1.0, 1.1, 1.5], ()), evidence=evidence), votes)

    assert (decision.answer, decision.candidates[0].members) == ("lion", ("m0", "m1"))


def test_the_linkages_differ_on_a_chain() -> None:
    # Steps of 20 degrees: cosine 0.94 for one step, 0.77 for two, 0.5 for three.
    cosines = cosines_of({"a": 0.0, "b": 20.0, "c": 40.0, "d": 60.0})

    clusters = {
        linkage: cluster_texts("abcd", cosines, threshold=0.76, linkage=linkage)
        for linkage in (Linkage.SINGLE, Linkage.COMPLETE)
    }

    assert clusters == {
        Linkage.SINGLE: (("a", "b", "c", "d"),),
        Linkage.COMPLETE: (("a", "b"), ("c", "d")),
    }


def test_at_the_threshold_two_texts_are_one() -> None:
    cosines = {("a", "b"): 0.9, ("b", "a"): 0.9}

    assert cluster_texts("ba", cosines, threshold=0.9, linkage=Linkage.AVERAGE) == (("a", "b"),)
    assert cluster_texts("ba", cosines, threshold=math.nextafter(0.9, 1), linkage=Linkage.AVERAGE) == (("a",), ("b",))


@pytest.mark.parametrize("kind", Linkage)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_clusters_are_scipys(kind: Linkage, data: st.DataObject) -> None:
    angles = data.draw(st.lists(st.floats(0, 180), min_size=2, max_size=7, unique_by=lambda angle: round(angle, 2)))
    threshold = data.draw(st.sampled_from([0.5, 0.8, 0.9, 0.97]))
    texts = [f"t{n}" for n in range(len(angles))]
    cosines = cosines_of(dict(zip(texts, angles, strict=True)))
    distances = np.array([[max(0.0, 1.0 - cosines[a, b]) for b in texts] for a in texts])
    np.fill_diagonal(distances, 0.0)
    merges = linkage(squareform(distances, checks=False), method=kind.value)
    heights = np.sort(merges[:, 2])
    if np.any(np.abs(heights - (1.0 - threshold)) < 1e-9) or np.any(np.diff(heights) < 1e-9):
        return  # Rounding decides.
    labels = fcluster(merges, t=1.0 - threshold, criterion="distance")

    clusters = cluster_texts(data.draw(st.permutations(texts)), cosines, threshold=threshold, linkage=kind)

    assert {frozenset(cluster) for cluster in clusters} == {
        frozenset(words for words, label in zip(texts, labels, strict=True) if label == wanted)
        for wanted in set(labels)
    }


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=5).filter(any))
def test_the_entropy_is_scipys_over_the_clusters(weights: list[float]) -> None:
    angles = {"abcde"[n]: 80.0 * (n % 2) + n for n in range(len(weights))}
    expected = entropy([sum(weights[0::2]), sum(weights[1::2])])

    decision = vote(weights, angles, [text(n, words) for n, words in enumerate(angles)])

    assert semantic_entropy(decision) == pytest.approx(float(expected), abs=1e-12)


def test_a_lower_threshold_lets_more_meanings_be_one() -> None:
    angles = {"a": 0.0, "b": 40.0, "c": 120.0}
    evidence = Evidence(texts=tuple(angles), embeddings=at(*angles.values()))
    question = replace(build_question([1.0, 1.0, 1.0], ()), evidence=evidence)

    counts = []
    for threshold in (0.9, 0.7, -1.0):
        tally = SemanticVote(threshold=threshold, admit=None).open_tally(question)
        for n, words in enumerate(angles):
            tally = tally.add(text(n, words))
        counts.append(len(tally.decide(decided_by=DecidedBy.ALL).candidates))

    assert counts == [3, 2, 1]
