"""When a vote is decided: cases small enough to follow by hand."""

from __future__ import annotations

import pytest

from ensemble.errors import InvalidRequestError
from ensemble.voting import DecidedBy, Quorum
from tests.voting.panels import build_question, count, hard, silent, text

CHOICES = ("red", "green", "blue")


def test_two_of_three_equal_votes_decide_a_majority() -> None:
    question = build_question([1.0, 1.0, 1.0], CHOICES)

    first = count("majority", question, [hard(2, "red")])
    second = first.add(hard(0, "red"))

    assert not first.is_decided()
    assert second.is_decided()


def test_a_lead_that_the_rest_can_only_level_is_not_decided() -> None:
    # A late vote may bring a log-probability that wins the tie.
    question = build_question([1.0] * 4, CHOICES)
    tally = count("majority", question, [hard(0, "red", -1.0), hard(1, "red", -1.0)])

    assert not tally.is_decided()
    assert tally.add(hard(2, "blue", -0.5)).add(hard(3, "blue", -0.5)).decide(DecidedBy.ALL).answer == "blue"


# A lead that ends as a tie is none; in the second row it ends exactly at 1e-9 of the panel's weight.
@pytest.mark.parametrize("weights", [(1.0 + 1e-10, 1.0), (500_000_000.5, 499_999_999.5)])
def test_a_lead_that_the_rest_can_bring_within_a_tie_is_not_decided(weights: tuple[float, float]) -> None:
    tally = count("weighted_vote", build_question(weights, CHOICES), [hard(0, "red", -2.0)])

    assert not tally.is_decided()
    assert tally.add(hard(1, "blue", -1.0)).decide(DecidedBy.ALL).answer == "blue"


def test_a_lead_just_wider_than_a_tie_is_decided() -> None:
    tally = count("weighted_vote", build_question((1.0 + 3e-9, 1.0), CHOICES), [hard(0, "red", -2.0)])

    assert tally.is_decided()
    assert tally.add(hard(1, "blue", -1.0)).decide(DecidedBy.ALL).answer == "red"


def test_an_answer_not_yet_given_is_a_rival() -> None:
    tally = count("weighted_vote", build_question([1.0, 2.0], ()), [text(0, "Paris")])

    assert not tally.is_decided()


def test_a_contrary_member_does_not_decide_for_the_unseen() -> None:
    tally = count("weighted_vote", build_question([-5.0, 1.0], ()), [text(0, "Paris")])

    assert not tally.is_decided()


def test_a_safe_lead_waits_until_its_soundness_is_known() -> None:
    question = build_question([3.0, 1.0, 1.0], CHOICES, Quorum(min_families=2), families=["f", "f", "g"])

    alone = count("weighted_vote", question, [hard(0, "red")])

    assert not alone.is_decided()  # sound only if m2 votes
    assert alone.add(hard(2, "blue")).is_decided()  # sound
    assert alone.add(silent(2)).is_decided()  # degraded, whatever m1 does


def test_without_early_stop_everyone_is_waited_for() -> None:
    question = build_question([1.0] * 3, CHOICES, Quorum(stop_early=False))

    tally = count("majority", question, [hard(0, "red"), hard(1, "red")])

    assert not tally.is_decided()
    assert tally.add(silent(2)).is_decided()


@pytest.mark.parametrize("cause", [DecidedBy.LOSSLESS_QUORUM, DecidedBy.ALL])
def test_a_vote_that_is_open_is_not_called_decided(cause: DecidedBy) -> None:
    tally = count("majority", build_question([1.0] * 3, CHOICES), [hard(0, "red")])

    with pytest.raises(InvalidRequestError, match="m1, m2 can still change"):
        tally.decide(cause)
