"""Minimum Bayes risk against its definition, written out with sacrebleu."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF

from ensemble.errors import InvalidRequestError
from ensemble.voting import DecidedBy
from ensemble.voting.mbr import build_chrf
from ensemble.voting.strategy import Evidence
from tests.voting.panels import build_question, count, decide, text

TEXTS = (
    "The cat sat on the mat.",
    "The cat sat on a mat.",
    "A cat is sitting on the mat.",
    "Stock prices fell sharply on Monday.",
)


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_the_utility_is_sacrebleus_chrf2(candidate: str, truth: str) -> None:
    reference = CHRF(char_order=6, word_order=0, beta=2).sentence_score(candidate, [truth]).score / 100

    assert build_chrf()(candidate, truth) == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 0.5, 3.0), (0.1, 0.0, 0.0, 0.9)])
def test_the_answer_maximises_the_expected_chrf(weights: tuple[float, ...]) -> None:
    chrf = CHRF()
    expected = {
        candidate: sum(
            w * chrf.sentence_score(candidate, [truth]).score for w, truth in zip(weights, TEXTS, strict=True)
        )
        / (100 * sum(weights))
        for candidate in TEXTS
    }
    ranked = sorted(expected, key=expected.__getitem__, reverse=True)

    decision = decide("mbr", build_question(weights, ()), [text(n, words) for n, words in enumerate(TEXTS)])

    assert [candidate.answer for candidate in decision.candidates] == ranked
    assert [c.weight for c in decision.candidates] == pytest.approx([expected[words] for words in ranked])
    assert decision.agreement == pytest.approx(expected[ranked[0]])
    assert decision.margin == pytest.approx(expected[ranked[0]] - expected[ranked[1]])


def test_the_odd_one_out_loses_until_it_weighs_more() -> None:
    votes = [text(n, words) for n, words in enumerate(TEXTS)]

    equal = decide("mbr", build_question([1.0] * 4, ()), votes)
    heavy = decide("mbr", build_question([1.0, 1.0, 1.0, 9.0], ()), votes)

    assert equal.answer in TEXTS[:3]
    assert heavy.answer == TEXTS[3]


def test_of_two_texts_the_heavier_members_wins() -> None:
    votes = [text(0, TEXTS[0]), text(1, TEXTS[3])]

    answers = [decide("mbr", build_question(weights, ()), votes).answer for weights in ([2.0, 1.0], [1.0, 2.0])]

    assert answers == [TEXTS[0], TEXTS[3]]


def test_equal_texts_are_one_candidate_with_both_members() -> None:
    votes = [text(0, TEXTS[3]), text(1, TEXTS[0]), text(2, f" {TEXTS[3]}\n")]

    decision = decide("mbr", build_question([1.0] * 3, ()), votes)

    assert [(c.answer, c.members) for c in decision.candidates] == [(TEXTS[3], ("m0", "m2")), (TEXTS[0], ("m1",))]


def test_tied_texts_go_by_logprob_in_every_order() -> None:
    # No character in common and equal weights: both expect one half.
    votes = [text(0, "aaaaaaaa", -2.0), text(1, "bbbbbbbb", -1.0)]
    question = build_question([1.0, 1.0], ())

    answers = {decide("mbr", question, order).answer for order in itertools.permutations(votes)}

    assert answers == {"bbbbbbbb"}


def test_nothing_is_decided_before_all_are_in() -> None:
    question = build_question([100.0, 1.0, 1e-9], ())

    tally = count("mbr", question, [text(0, TEXTS[0]), text(1, TEXTS[0])])

    assert not tally.is_decided()
    with pytest.raises(InvalidRequestError, match="lossless_quorum is not so"):
        tally.decide(DecidedBy.LOSSLESS_QUORUM)
    assert tally.add(text(2, TEXTS[1])).is_decided()


def test_mbr_refuses_choices_and_negative_weights() -> None:
    with pytest.raises(InvalidRequestError, match="votes on texts"):
        count("mbr", build_question([1.0]), [])
    with pytest.raises(InvalidRequestError, match="negative weights"):
        count("mbr", build_question([1.0, -0.1], ()), [])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_embeddings_and_the_mix_maximise_their_expected_utility(data: st.DataObject) -> None:
    num = data.draw(st.integers(2, 4))
    weights = data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=num, max_size=num))
    number = st.floats(-1.0, 1.0, allow_subnormal=False)
    rows = st.lists(number, min_size=3, max_size=3).filter(lambda row: np.linalg.norm(row) > 0.01).map(tuple)
    vectors = tuple(data.draw(st.lists(rows, min_size=num, max_size=num)))
    question = replace(build_question(weights, ()), evidence=Evidence(texts=TEXTS[:num], embeddings=vectors))
    votes = [text(n, words) for n, words in enumerate(TEXTS[:num])]
    units = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    by_embedding = (1 + units @ units.T) / 2
    by_chrf = np.array([[CHRF().sentence_score(a, [b]).score / 100 for b in TEXTS[:num]] for a in TEXTS[:num]])
    shares = np.array(weights) / sum(weights)

    decisions = {name: decide(name, question, votes) for name in ("mbr_embedding", "mbr_mix")}

    for name, utility in (("mbr_embedding", by_embedding), ("mbr_mix", (by_embedding + by_chrf) / 2)):
        expected = dict(zip(TEXTS, utility @ shares, strict=False))
        weight_by_answer = {candidate.answer: candidate.weight for candidate in decisions[name].candidates}
        assert weight_by_answer == pytest.approx(expected)
        assert weight_by_answer[decisions[name].answer] == pytest.approx(max(expected.values()))


def test_embeddings_see_what_characters_do_not() -> None:
    words = ("It will rain.", "Showers are coming.", "It will run.")
    vectors = ((1.0, 0.1), (1.0, 0.0), (0.0, 1.0))
    question = replace(build_question([1.0] * 3, ()), evidence=Evidence(texts=words, embeddings=vectors))
    votes = [text(n, sentence) for n, sentence in enumerate(words)]

    answers = {name: decide(name, question, votes).candidates[-1].answer for name in ("mbr", "mbr_embedding")}

    assert answers == {"mbr": "Showers are coming.", "mbr_embedding": "It will run."}
