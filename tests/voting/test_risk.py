"""Models of the votes still out: published numbers, and simulation."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ensemble.errors import InvalidRequestError
from ensemble.voting.risk import (
    Juror,
    expected_wait,
    log_odds_weight,
    panel_accuracy,
    posterior,
    probability_of_leader,
    probability_of_majority,
    votes_to_stop,
)

VECTORS: dict[str, list[Any]] = json.loads((Path(__file__).parent / "vectors" / "risk.json").read_text())


def juror(accuracy: float, num_choices: int) -> Juror:
    return Juror(accuracy=accuracy, weight=log_odds_weight(accuracy, num_choices))


@pytest.mark.parametrize("vector", VECTORS["log_odds"])
def test_log_odds_weights_and_their_posterior_are_the_published_ones(vector: dict[str, Any]) -> None:
    weights = [log_odds_weight(accuracy, vector["num_choices"]) for accuracy in vector["accuracies"]]
    scores = [weights[0], weights[1] + weights[2], *[0.0] * (vector["num_choices"] - 2)]

    chances = posterior(scores)

    assert weights == pytest.approx(vector["weights"], abs=1e-6)
    assert chances == pytest.approx(vector["posterior"], abs=1e-6)


@pytest.mark.parametrize("vector", VECTORS["probability_of_leader"])
def test_the_leader_stays_as_likely_as_published(vector: dict[str, Any]) -> None:
    scores = [0.0] * vector["num_choices"]
    for accuracy, choice in vector["seen"]:
        scores[choice] += log_odds_weight(accuracy, vector["num_choices"])
    waiting = [juror(accuracy, vector["num_choices"]) for accuracy in vector["waiting"]]

    probability = probability_of_leader(scores, waiting)

    assert max(posterior(scores)) == pytest.approx(vector["posterior"], abs=1e-12)
    assert probability == pytest.approx(vector["probability"], abs=1e-12)


def test_enumeration_agrees_with_simulation() -> None:
    rng = random.Random(3)
    accuracies, scores, kappa = (0.6, 0.75), [1.9, 0.4, 0.0], 0.7
    waiting = [juror(accuracy, 3) for accuracy in accuracies]
    chances = posterior(scores, kappa=kappa)

    num_kept = 0
    for _ in range(20_000):
        truth = rng.choices(range(3), chances)[0]
        final = list(scores)
        for member in waiting:
            is_right = rng.random() < member.accuracy
            final[truth if is_right else rng.choice([y for y in range(3) if y != truth])] += member.weight
        num_kept += final[0] == max(final)

    # Five standard errors of 20,000 draws.
    assert probability_of_leader(scores, waiting, kappa=kappa) == pytest.approx(num_kept / 20_000, abs=0.016)


def test_kappa_of_zero_forgets_the_votes() -> None:
    assert posterior([5.0, 1.0, -3.0, 0.0], kappa=0.0) == (0.25, 0.25, 0.25, 0.25)


@pytest.mark.parametrize("vector", VECTORS["panel_accuracy"])
def test_a_panel_of_independent_members_is_as_good_as_published(vector: dict[str, Any]) -> None:
    equal = [Juror(accuracy=accuracy, weight=1.0) for accuracy in vector["accuracies"]]
    weighted = [juror(accuracy, 2) for accuracy in vector["accuracies"]]

    assert panel_accuracy(equal, 2) == pytest.approx(vector["equal"], abs=1e-9)
    assert panel_accuracy(weighted, 2) == pytest.approx(vector["log_odds"], abs=1e-9)


def test_a_tied_panel_is_right_as_often_as_a_coin_says() -> None:
    assert panel_accuracy([Juror(accuracy=0.8, weight=1.0)] * 2, 2) == pytest.approx(0.8)


@pytest.mark.parametrize(("num_leading", "num_second", "probability"), VECTORS["probability_of_majority"])
def test_the_beta_rule_gives_the_published_tail(num_leading: int, num_second: int, probability: float) -> None:
    assert probability_of_majority(num_leading, num_second) == pytest.approx(probability, abs=1e-6)


@pytest.mark.parametrize("vector", VECTORS["votes_to_stop"])
def test_the_beta_rule_stops_where_published(vector: dict[str, Any]) -> None:
    needed = [votes_to_stop(num_second, confidence=vector["confidence"]) for num_second in range(6)]

    assert needed == vector["leading_by_second"]


@pytest.mark.parametrize(("num_needed", "num_asked", "wait"), VECTORS["expected_wait"])
def test_the_wait_for_the_first_few_is_the_published_one(num_needed: int, num_asked: int, wait: float) -> None:
    assert expected_wait(num_needed, num_asked) == pytest.approx(wait, abs=1e-4)
    assert expected_wait(num_needed, num_asked, mean_s=0.5) == pytest.approx(wait / 2, abs=1e-4)


def test_what_cannot_be_modelled_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="accuracy"):
        log_odds_weight(1.0, 2)
    with pytest.raises(InvalidRequestError, match="num_choices"):
        log_odds_weight(0.5, 1)
    with pytest.raises(InvalidRequestError, match="too many patterns"):
        probability_of_leader([0.0] * 77, [juror(0.5, 77)] * 4)
    with pytest.raises(InvalidRequestError, match="confidence"):
        votes_to_stop(1, confidence=1.0)
    with pytest.raises(InvalidRequestError, match="6 of 5"):
        expected_wait(6, 5)
    with pytest.raises(InvalidRequestError, match="negative"):
        probability_of_majority(-1, 0)
