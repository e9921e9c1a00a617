"""The columns that are always there do not move with the last digits of what models compute."""

from __future__ import annotations

import random

import pytest

from ensemble.batch.answers import SUMMING_STRATEGIES, answer_from_decision, columns_of
from ensemble.voting.ballot import Ballot, Voter
from ensemble.voting.decision import DecidedBy
from ensemble.voting.registry import STRATEGY_NAMES, get_strategy
from ensemble.voting.strategy import Question, Quorum

MEMBERS = ("a", "b", "c")
CHOICES = ("red", "green", "blue")
NOISE = 1e-7
"""What other rows of a forward pass move a probability by, and more."""
NUM_VOTES = 300
QUESTION = Question(
    choices=CHOICES,
    panel=tuple(Voter(member=name, family=name, weight=1.0 + n / 8) for n, name in enumerate(MEMBERS)),
    quorum=Quorum(),
)


def row_of(strategy: str, votes: list[list[float]], columns: tuple[str, ...]) -> dict[str, object]:
    tally = get_strategy(strategy).open_tally(QUESTION)
    for member, weights in zip(MEMBERS, votes, strict=True):
        probabilities = tuple(weight / sum(weights) for weight in weights)
        choice = CHOICES[probabilities.index(max(probabilities))]
        tally = tally.add(Ballot(member=member, choice=choice, probabilities=probabilities))
    return answer_from_decision("q", tally.decide(DecidedBy.ALL)).row(columns)


def num_changed(strategy: str, columns: tuple[str, ...]) -> int:
    """Count rows that a little noise changes, of votes drawn at random."""
    draw = random.Random(7)
    changed = 0
    for _ in range(NUM_VOTES):
        votes = [[draw.uniform(0.02, 1.0) for _ in CHOICES] for _ in MEMBERS]
        noisy = [[weight + draw.uniform(-NOISE, NOISE) for weight in weights] for weights in votes]
        changed += row_of(strategy, votes, columns) != row_of(strategy, noisy, columns)
    return changed


@pytest.mark.parametrize("strategy", ["majority", "weighted_vote", "soft_vote", "log_pool", "borda"])
def test_noise_of_a_forward_pass_changes_no_default_column(strategy: str) -> None:
    columns = columns_of({strategy}, stop_early=False, with_confidence=False, with_ballots=True)

    assert num_changed(strategy, columns) == 0


def test_the_noise_is_enough_to_be_seen_where_probabilities_are_summed() -> None:
    columns = columns_of({"soft_vote"}, stop_early=False, with_confidence=True, with_ballots=False)

    assert "agreement" in columns
    assert num_changed("soft_vote", columns) > 0


def test_agreement_is_left_out_where_one_strategy_sums_alone() -> None:
    def has_agreement(*strategies: str) -> bool:
        columns = columns_of(strategies, stop_early=False, with_confidence=False, with_ballots=False)
        return "agreement" in columns

    assert set(STRATEGY_NAMES) > SUMMING_STRATEGIES
    assert has_agreement("weighted_vote", "mbr")
    assert not has_agreement("weighted_vote", "judge")
    assert not has_agreement("soft_vote", "mbr")
