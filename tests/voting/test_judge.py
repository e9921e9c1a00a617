"""The judge's verdict decides, and says how sure it is."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from ensemble.voting import Decision
from ensemble.voting.strategy import Evidence
from tests.voting.panels import build_question, decide, text

TEXTS = ("ant", "bee", "cow")


def judge(weights: list[float], verdict: tuple[float, ...], logprobs: tuple[float | None, ...] = ()) -> Decision:
    evidence = Evidence(texts=TEXTS[: len(verdict)], source="wise", verdict=verdict)
    votes = [text(n, TEXTS[n], logprobs[n] if logprobs else None) for n in range(len(verdict))]
    return decide("judge", replace(build_question(weights, ()), evidence=evidence), votes)


def test_the_candidates_have_the_judges_probabilities() -> None:
    verdict = (-1.5, -0.25, -3.0)

    decision = judge([5.0, 1.0, 1.0], verdict)

    reference = dict(zip(TEXTS, softmax(np.array(verdict)), strict=True))
    assert {c.answer: c.weight for c in decision.candidates} == pytest.approx(reference)
    assert decision.answer == "bee"
    assert decision.agreement == pytest.approx(reference["bee"])
    assert decision.margin == pytest.approx(reference["bee"] - reference["ant"])


def test_a_shift_of_the_verdict_changes_nothing() -> None:
    assert judge([1.0] * 3, (-1.5, -0.25, -3.0)) == judge([1.0] * 3, (-1001.5, -1000.25, -1003.0))


def test_a_text_far_behind_is_no_error() -> None:
    decision = judge([1.0, 1.0], (-1.0, -5000.0))

    assert (decision.answer, decision.agreement) == ("ant", 1.0)


def test_an_undecided_judge_leaves_it_to_the_tie_rules() -> None:
    level = math.log(1 / 3)

    heavier = judge([1.0, 1.0, 2.0], (level,) * 3)
    likelier = judge([1.0, 1.0, 2.0], (level,) * 3, (-3.0, -1.0, -2.0))
    first = judge([1.0, 1.0, 1.0], (level,) * 3)

    assert [decision.answer for decision in (heavier, likelier, first)] == ["cow", "bee", "ant"]


def test_the_verdict_follows_the_texts_and_not_their_places() -> None:
    verdict = dict(zip(TEXTS, (-1.0, -0.5, -2.0), strict=True))
    votes = [text(n, words) for n, words in enumerate(TEXTS)]
    question = build_question([1.0] * 3, ())

    decisions = [
        decide(
            "judge",
            replace(question, evidence=Evidence(texts=order, verdict=tuple(verdict[words] for words in order))),
            votes,
        )
        for order in itertools.permutations(TEXTS)
    ]

    assert decisions[0].answer == "bee"
    assert all(decision == decisions[0] for decision in decisions)
