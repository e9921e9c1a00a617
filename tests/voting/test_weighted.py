"""The rules that sum weights: counts, ties, soundness, and published numbers."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from ensemble.errors import QuorumError
from ensemble.voting import AbstentionReason, Ballot, Candidate, DecidedBy, Quorum, Vote
from tests.voting.panels import CHOICES, build_question, decide, hard, silent, soft, text

VECTORS: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "vectors" / "linear.json").read_text())


def log_odds(accuracy: float, num_choices: int) -> float:
    return math.log(accuracy * (num_choices - 1) / (1 - accuracy))


def test_majority_counts_heads_and_weighted_vote_counts_weights() -> None:
    question = build_question([5.0, 1.0, 1.0])
    votes = [hard(0, "red"), hard(1, "blue"), hard(2, "blue")]

    by_heads, by_weight = decide("majority", question, votes), decide("weighted_vote", question, votes)

    assert by_heads.answer == "blue"
    assert by_heads.candidates[0] == Candidate(answer="blue", weight=2.0, members=("m1", "m2"))
    assert by_weight.answer == "red"
    assert [candidate.weight for candidate in by_weight.candidates] == [5.0, 2.0]


def test_a_decision_carries_its_evidence() -> None:
    question = build_question([3.0, 2.0, 1.0, 4.0], families=["f", "g", "f", "h"])
    votes: list[Vote] = [silent(3), hard(2, "red"), hard(1, "green"), hard(0, "red")]

    decision = decide("weighted_vote", question, votes)

    assert (decision.answer, decision.strategy, decision.decided_by) == ("red", "weighted_vote", DecidedBy.ALL)
    assert decision.agreement == pytest.approx(4 / 6)
    assert decision.margin == pytest.approx(2 / 6)
    assert decision.confidence is None
    assert decision.num_asked == 4
    assert decision.families == ("f", "g")
    assert [candidate.members for candidate in decision.candidates] == [("m0", "m2"), ("m1",)]
    assert [ballot.member for ballot in decision.ballots] == ["m0", "m1", "m2"]
    assert decision.abstentions == (silent(3),)


def test_short_answers_that_mean_the_same_are_counted_together() -> None:
    question = build_question([1.0] * 4, ())
    votes = [
        text(0, "The answer is 1,000.0."),
        text(1, "999"),
        text(2, "1000\nQuestion: next?"),
        text(3, "I don't know."),
    ]

    decision = decide("weighted_vote", question, votes)

    assert decision.answer == "1000"
    assert decision.candidates == (
        Candidate(answer="1000", weight=2.0, members=("m0", "m2")),
        Candidate(answer="999", weight=1.0, members=("m1",)),
    )
    assert [ballot.choice for ballot in decision.ballots] == ["1000", "999", "1000"]
    assert [abstention.reason for abstention in decision.abstentions] == [AbstentionReason.REFUSAL]


def test_a_soft_ballot_without_a_choice_gets_its_likeliest() -> None:
    decision = decide("soft_vote", build_question([1.0]), [soft(0, 0.2, 0.5, 0.3)])

    assert decision.ballots[0].choice == "green"
    assert [(candidate.answer, candidate.members) for candidate in decision.candidates] == [
        ("green", ("m0",)),
        ("blue", ()),
        ("red", ()),
    ]


# The rows: weights, choices, votes, the winner, and why.
TIES: list[tuple[list[float], tuple[str, ...], list[Vote], str]] = [
    # The higher mean log-probability, when all who back the tied have one.
    ([1, 1], CHOICES, [hard(0, "red", -2.0), hard(1, "blue", -1.0)], "blue"),
    ([1, 1, 1, 1], CHOICES, [hard(0, "red", -9), hard(1, "red", -1), hard(2, "blue", -4), hard(3, "blue", -4)], "blue"),
    ([1, 3, 2, 2], CHOICES, [hard(0, "red", -9), hard(1, "red", -1), hard(2, "blue", -4), hard(3, "blue", -4)], "red"),
    # A backer of one of them has none: the member of the largest weight.
    ([2, 2, 3, 1], CHOICES, [hard(0, "red", -1), hard(1, "red", -1), hard(2, "blue"), hard(3, "blue", -9)], "blue"),
    # A third, not tied, needs none.
    ([2, 2, 1], CHOICES, [hard(0, "red", -2.0), hard(1, "blue", -1.0), hard(2, "green")], "blue"),
    # Equal log-probabilities: the member of the largest weight.
    ([1, 1, 2], CHOICES, [hard(0, "red", -1.0), hard(1, "red", -1.0), hard(2, "blue", -1.0)], "blue"),
    # Equal largest weights: the declared order, else the lexicographic one.
    ([1, 1], CHOICES, [hard(0, "blue"), hard(1, "green")], "green"),
    ([1, 1], (), [text(0, "zebra"), text(1, "ape")], "ape"),
    # A gap within 1e-9 of the panel's weight is a tie, a wider one is not.
    ([1 + 1e-10, 1], CHOICES, [hard(0, "blue", -2.0), hard(1, "red", -1.0)], "red"),
    ([1 + 1e-8, 1], CHOICES, [hard(0, "blue", -2.0), hard(1, "red", -1.0)], "blue"),
    ([0.1, 0.2, 0.3], CHOICES, [hard(0, "blue", -1.0), hard(1, "blue", -1.0), hard(2, "red", -0.5)], "red"),
]


@pytest.mark.parametrize(("weights", "choices", "votes", "winner"), TIES)
def test_ties_go_by_logprob_then_weight_then_order(
    weights: list[float], choices: tuple[str, ...], votes: list[Vote], winner: str
) -> None:
    question = build_question(weights, choices)

    winners = {decide("weighted_vote", question, order).answer for order in itertools.permutations(votes)}

    assert winners == {winner}


def test_a_tied_majority_goes_to_the_heavier_member() -> None:
    decision = decide("majority", build_question([1.0, 2.0]), [hard(0, "red"), hard(1, "blue")])

    assert (decision.answer, decision.margin) == ("blue", 0.0)


def test_a_negative_weight_pulls_its_choice_down() -> None:
    question = build_question([1.0, -3.0, 1.0])
    votes = [hard(0, "red"), hard(1, "red"), hard(2, "green")]

    decision = decide("weighted_vote", question, votes)

    assert [(candidate.answer, candidate.weight) for candidate in decision.candidates] == [
        ("green", 1.0),
        ("red", -2.0),
    ]
    assert decision.agreement == pytest.approx(1 / 5)


def test_a_choice_that_nobody_gave_can_win_against_a_negative_one() -> None:
    decision = decide("weighted_vote", build_question([-1.0]), [hard(0, "red")])

    assert decision.candidates == (
        Candidate(answer="green", weight=0.0, members=()),
        Candidate(answer="red", weight=-1.0, members=("m0",)),
    )
    assert decision.agreement == 0.0


def test_ballots_of_weight_zero_decide_among_themselves_but_are_degraded() -> None:
    decision = decide("weighted_vote", build_question([0.0, 1.0]), [hard(0, "blue"), silent(1)])

    assert (decision.answer, decision.agreement, decision.margin, decision.degraded) == ("blue", 0.0, 0.0, True)


@pytest.mark.parametrize(
    ("strategy", "weights", "quorum", "num_votes", "degraded"),
    [
        ("weighted_vote", [1, 1, 2], Quorum(), 2, False),
        ("weighted_vote", [1, 1, 3], Quorum(), 2, True),
        ("majority", [1, 1, 9], Quorum(), 2, False),
        ("majority", [1, 1, 9], Quorum(min_weight=0.7), 2, True),
        ("weighted_vote", [0.1, 0.2, 0.3], Quorum(), 2, False),
        ("weighted_vote", [-1, -1, 2], Quorum(), 2, False),
        ("weighted_vote", [1, 1, 1], Quorum(min_weight=0.0), 1, False),
        ("weighted_vote", [1, 1, 1], Quorum(min_families=2), 2, False),
        ("weighted_vote", [1, 1, 1], Quorum(min_families=3), 2, True),
        ("weighted_vote", [1, 1, 1], Quorum(min_weight=1.0), 3, False),
    ],
)
def test_too_little_weight_or_too_few_families_degrade(
    strategy: str,
    weights: list[float],
    quorum: Quorum,
    num_votes: int,
    degraded: bool,  # noqa: FBT001  pytest passes by name
) -> None:
    question = build_question(weights, quorum=quorum)

    decision = decide(strategy, question, [hard(n, "red") for n in range(num_votes)], DecidedBy.DEADLINE)

    assert decision.degraded is degraded


def test_siblings_are_one_family() -> None:
    question = build_question([1, 1, 1], quorum=Quorum(min_families=2), families=["f", "f", "g"])

    decision = decide("majority", question, [hard(0, "red"), hard(1, "red")], DecidedBy.DEADLINE)

    assert decision.families == ("f",)
    assert decision.degraded


def test_nothing_cast_is_no_decision() -> None:
    votes = [silent(0, AbstentionReason.DEADLINE), silent(2)]

    with pytest.raises(QuorumError) as caught:
        decide("weighted_vote", build_question([1, 1, 1]), votes, DecidedBy.DEADLINE)

    assert caught.value.args == ("", 0, 3, "2 deadline, 1 error")


@pytest.mark.parametrize("vector", VECTORS["log_odds"])
def test_log_odds_weights_give_the_published_posterior(vector: dict[str, Any]) -> None:
    num_choices = vector["num_choices"]
    choices = tuple("abcd"[:num_choices])
    weights = [log_odds(accuracy, num_choices) for accuracy in vector["accuracies"]]
    votes = [hard(n, choices[vote]) for n, vote in enumerate(vector["votes"])]

    decision = decide("weighted_vote", build_question(weights, choices), votes)

    score_by_choice = {candidate.answer: candidate.weight for candidate in decision.candidates}
    odds = [math.exp(score_by_choice.get(choice, 0.0)) for choice in choices]
    assert weights == pytest.approx(vector["weights"], abs=1e-6)
    assert [odd / sum(odds) for odd in odds] == pytest.approx(vector["posterior"], abs=1e-6)


@pytest.mark.parametrize("vector", VECTORS["exact_accuracy"])
@pytest.mark.parametrize("strategy", ["majority", "weighted_vote"])
def test_enumerating_every_pattern_gives_the_published_accuracy(vector: dict[str, Any], strategy: str) -> None:
    accuracies = vector["accuracies"]
    question = build_question([log_odds(accuracy, 2) for accuracy in accuracies], ("right", "wrong"))

    total = 0.0
    for pattern in itertools.product((True, False), repeat=len(accuracies)):
        votes = [hard(n, "right" if is_right else "wrong") for n, is_right in enumerate(pattern)]
        if decide(strategy, question, votes).answer == "right":
            total += math.prod(p if is_right else 1 - p for p, is_right in zip(accuracies, pattern, strict=True))

    assert total == pytest.approx(vector[strategy], abs=1e-9)


@pytest.mark.parametrize("vector", VECTORS["linear_pool"])
def test_soft_votes_pool_to_the_published_shares(vector: dict[str, Any]) -> None:
    choices = ("a", "b")
    votes = [Ballot(member=f"m{n}", probabilities=tuple(row)) for n, row in enumerate(vector["probabilities"])]

    decision = decide("soft_vote", build_question(vector["weights"], choices), votes)

    weight_by_choice = {candidate.answer: candidate.weight for candidate in decision.candidates}
    pooled = [weight_by_choice[choice] / sum(vector["weights"]) for choice in choices]
    assert pooled == pytest.approx(vector["pooled"], abs=1e-6)
    assert decision.agreement == pytest.approx(max(vector["pooled"]), abs=1e-6)
    assert decision.margin == pytest.approx(abs(pooled[0] - pooled[1]), abs=1e-6)
