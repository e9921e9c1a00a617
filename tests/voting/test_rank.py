"""Cross-perplexity: members' ranks of each other's texts decide, on nobody's own scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.voting import Decision, Vote
from ensemble.voting.strategy import Evidence
from tests.voting.panels import build_question, decide, text

TEXTS = ("ant", "bee", "cow")
Scores = Mapping[str, tuple[float, ...]]


def rank(weights: list[float], votes: Sequence[Vote], scores: Scores, texts: tuple[str, ...] = TEXTS) -> Decision:
    evidence = Evidence(texts=texts, logprobs_by_scorer=scores)
    return decide("rank", replace(build_question(weights, ()), evidence=evidence), votes)


def one_each(num: int = 3) -> list[Vote]:
    return [text(n, TEXTS[n]) for n in range(num)]


def test_second_places_decide_among_three_texts() -> None:
    # m0: ant > cow > bee, m1: bee > cow > ant, m2: cow > bee > ant.
    scores = {"m0": (-1.0, -3.0, -2.0), "m1": (-9.0, -1.0, -2.0), "m2": (-3.0, -2.5, -2.0)}

    decision = rank([1.0, 1.0, 1.0], one_each(), scores)

    assert [candidate.answer for candidate in decision.candidates] == ["cow", "bee", "ant"]
    assert [candidate.weight for candidate in decision.candidates] == pytest.approx([2 / 3, 1 / 2, 1 / 3])
    assert decision.agreement == pytest.approx(2 / 3)
    assert decision.margin == pytest.approx(1 / 6)


def test_nobody_gains_by_being_sure_of_its_own_words() -> None:
    modest = {"m0": (-9.0, -3.0, -2.0), "m1": (-9.0, -8.0, -2.0), "m2": (-3.0, -2.5, -7.0)}
    sure = {"m0": (-0.001, -3.0, -2.0), "m1": (-9.0, -0.001, -2.0), "m2": (-3.0, -2.5, -0.001)}

    assert rank([1.0, 1.1, 1.2], one_each(), modest) == rank([1.0, 1.1, 1.2], one_each(), sure)


def test_a_text_that_most_gave_wins() -> None:
    votes = [text(0, "ant"), text(1, "ant"), text(2, "ant"), text(3, "bee")]
    scores = {f"m{n}": (-5.0, -1.0) for n in range(4)}

    decision = rank([1.0] * 4, votes, scores, TEXTS[:2])

    assert (decision.answer, decision.agreement, decision.margin) == ("ant", 0.75, 0.5)


def test_between_two_members_the_heavier_wins_whatever_they_score() -> None:
    scores = {"m0": (-5.0, -1.0), "m1": (-5.0, -1.0)}

    decision = rank([1.5, 1.0], one_each(2), scores, TEXTS[:2])

    assert decision.answer == "ant"
    assert decision.agreement == pytest.approx(0.6)


def test_a_member_without_scores_backs_its_own_text_and_leaves_the_others_level() -> None:
    decision = rank([1.0, 1.0, 1.0], one_each(), {"m0": (-1.0, -2.0, -3.0)})

    # m0 gives 1, 1/2 and 0; the others 1 to their own and 1/4 (half a win of two) to each other text.
    weights = {candidate.answer: Fraction(candidate.weight).limit_denominator(100) for candidate in decision.candidates}
    assert weights == {"ant": Fraction(6, 12), "bee": Fraction(7, 12), "cow": Fraction(5, 12)}


def test_scores_of_a_member_without_a_ballot_do_not_count() -> None:
    scores = {"m0": (-1.0, -3.0, -2.0), "m1": (-9.0, -1.0, -2.0), "m2": (-3.0, -2.5, -2.0)}

    assert rank([1.0] * 3, one_each(), scores) == rank([1.0] * 3, one_each(), {**scores, "m9": (0.0, -8.0, -9.0)})


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_shares_are_those_of_the_pairs_won(data: st.DataObject) -> None:
    num = data.draw(st.integers(2, 5))
    texts = tuple("abcde"[:num])
    numbers = st.lists(st.sampled_from([-1.0, -2.0, -3.0, -4.0]), min_size=num, max_size=num).map(tuple)
    own = data.draw(st.lists(st.integers(0, num - 1), min_size=num, max_size=7).filter(lambda o: len(set(o)) == num))
    weights = data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.5]), min_size=len(own), max_size=len(own)))
    scores = {f"m{n}": data.draw(numbers) for n in range(len(own))}

    decision = rank(weights, [text(n, texts[i]) for n, i in enumerate(own)], scores, texts)

    expected = dict.fromkeys(texts, 0.0)
    for n, i in enumerate(own):
        likings = [9.0 if k == i else score for k, score in enumerate(scores[f"m{n}"])]
        for k, liking in enumerate(likings):
            wins = sum((liking > other) + 0.5 * (liking == other) for j, other in enumerate(likings) if j != k)
            expected[texts[k]] += weights[n] * wins / (num - 1) / sum(weights)
    assert {c.answer: c.weight for c in decision.candidates} == pytest.approx(expected)


@settings(max_examples=300, deadline=None)
@given(
    scores=st.lists(st.tuples(*[st.sampled_from([-1.0, -2.0, -3.0, -5.0])] * 3), min_size=3, max_size=3),
    slopes=st.lists(st.sampled_from([0.25, 1.0, 8.0]), min_size=3, max_size=3),
    offsets=st.lists(st.integers(-4, 4), min_size=3, max_size=3),
)
def test_a_members_scale_does_not_matter(
    scores: list[tuple[float, ...]], slopes: list[float], offsets: list[int]
) -> None:
    plain = {f"m{n}": row for n, row in enumerate(scores)}
    scaled = {f"m{n}": tuple(slopes[n] * score + offsets[n] for score in row) for n, row in enumerate(scores)}

    assert rank([1.0, 1.3, 0.9], one_each(), scaled) == rank([1.0, 1.3, 0.9], one_each(), plain)
