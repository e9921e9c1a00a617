"""Pools of logarithms: published numbers, the floor, and stacking's need of a calibration."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ensemble.errors import InvalidRequestError
from ensemble.voting import Ballot, DecidedBy
from ensemble.voting.log_linear import LogPool, floored_logs
from ensemble.voting.strategy import VoteCalibration
from tests.voting.panels import build_question, count, decide, hard, soft

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "log_pool.json").read_text())
BAYES = VoteCalibration(kappa=1.0)


@pytest.mark.parametrize("vector", VECTORS)
def test_geometric_means_and_products_are_the_published_ones(vector: dict[str, Any]) -> None:
    question = build_question(vector["weights"], ("a", "b"), calibration=BAYES)
    tally = LogPool(floor=1e-6).open_tally(question)
    for n, row in enumerate(vector["probabilities"]):
        tally = tally.add(Ballot(member=f"m{n}", probabilities=tuple(row)))

    decision = tally.decide(DecidedBy.ALL)

    assert decision.confidence == pytest.approx(max(vector["pooled"]), abs=1e-6)
    assert decision.answer == "ab"[vector["pooled"].index(max(vector["pooled"]))]


def test_a_sum_is_of_weighted_floored_logarithms() -> None:
    rows = [(0.7, 0.2, 0.1), (1.0, 0.0, 0.0)]

    decision = decide("log_pool", build_question([2.0, 0.5]), [soft(n, *row) for n, row in enumerate(rows)])

    logs = [floored_logs(row) for row in rows]
    sums = {answer: 2.0 * logs[0][n] + 0.5 * logs[1][n] for n, answer in enumerate(("red", "green", "blue"))}
    assert {candidate.answer: candidate.weight for candidate in decision.candidates} == pytest.approx(sums)
    assert sum(map(math.exp, logs[1])) == pytest.approx(1.0)
    assert decision.agreement == 1.0


def test_one_member_alone_cannot_veto() -> None:
    votes = [soft(0, 0.0, 1.0, 0.0), soft(1, 0.98, 0.01, 0.01), soft(2, 0.98, 0.01, 0.01)]

    assert decide("log_pool", build_question([1.0] * 3), votes).answer == "red"


def test_agreement_is_of_those_who_name_the_answer_first() -> None:
    votes = [soft(0, 0.9, 0.05, 0.05), soft(1, 0.4, 0.6, 0.0), soft(2, 0.4, 0.0, 0.6)]

    decision = decide("log_pool", build_question([1.0, 2.0, 1.0]), votes)

    assert decision.answer == "red"
    assert decision.agreement == 0.25
    assert decision.candidates[0].members == ("m0",)


def test_stacking_uses_a_sibling_as_contrast() -> None:
    # Both say red, but the weak one says it louder: what the strong one adds is green.
    question = build_question([2.0, -1.0], calibration=BAYES)

    decision = decide("stacking", question, [soft(0, 0.5, 0.45, 0.05), soft(1, 0.8, 0.15, 0.05)])

    assert decision.answer == "green"
    assert decision.agreement == 0.0


def test_stacking_without_a_calibration_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"calibration: stacking has no weights without one"):
        count("stacking", build_question([1.0, 1.0]), [])


@pytest.mark.parametrize("strategy", ["log_pool", "stacking"])
def test_pools_need_choices_and_probabilities(strategy: str) -> None:
    with pytest.raises(InvalidRequestError, match="choices"):
        count(strategy, build_question([1.0], (), calibration=BAYES), [])
    with pytest.raises(InvalidRequestError, match="no probabilities"):
        count(strategy, build_question([1.0], calibration=BAYES), [hard(0, "red")])
