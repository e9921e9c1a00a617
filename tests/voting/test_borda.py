"""The Borda count: points, shared points, and ballots that name only a choice."""

from __future__ import annotations

import pytest

from ensemble.errors import InvalidRequestError
from tests.voting.panels import build_question, count, decide, hard, soft, text


def test_points_are_the_number_of_choices_ranked_below() -> None:
    decision = decide("borda", build_question([1.0, 3.0]), [soft(0, 0.5, 0.3, 0.2), soft(1, 0.1, 0.2, 0.7)])

    assert {candidate.answer: candidate.weight for candidate in decision.candidates} == {
        "blue": 6.0,
        "green": 4.0,
        "red": 2.0,
    }
    assert decision.margin == pytest.approx(2.0 / 8.0)
    assert decision.agreement == 0.75


@pytest.mark.parametrize(
    ("row", "points"),
    [
        ((0.5, 0.25, 0.25), (2.0, 0.5, 0.5)),
        ((0.4, 0.4, 0.2), (1.5, 1.5, 0.0)),
        ((1 / 3, 1 / 3, 1 / 3), (1.0, 1.0, 1.0)),
    ],
)
def test_equal_choices_share_their_points(row: tuple[float, ...], points: tuple[float, ...]) -> None:
    decision = decide("borda", build_question([1.0]), [soft(0, *row)])

    weights = {candidate.answer: candidate.weight for candidate in decision.candidates}
    assert tuple(weights.get(choice, 0.0) for choice in ("red", "green", "blue")) == points


def test_a_choice_alone_ranks_the_others_equal() -> None:
    named, ranked = hard(0, "green"), soft(0, 0.2, 0.6, 0.2)

    by_choice = decide("borda", build_question([1.0]), [named])

    assert by_choice.candidates == decide("borda", build_question([1.0]), [ranked]).candidates


def test_a_second_choice_of_all_beats_a_first_of_few() -> None:
    votes = [soft(0, 0.6, 0.4, 0.0), soft(1, 0.6, 0.4, 0.0), soft(2, 0.0, 0.6, 0.4), soft(3, 0.0, 0.4, 0.6)]

    assert decide("borda", build_question([1.0] * 4), votes).answer == "green"


def test_borda_needs_choices() -> None:
    with pytest.raises(InvalidRequestError, match="choices"):
        count("borda", build_question([1.0], ()), [text(0, "red")])
