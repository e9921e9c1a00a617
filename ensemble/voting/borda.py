"""The Borda count: points for every place in every member's ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.voting.admission import admit_choice
from ensemble.voting.ballot import Ballot
from ensemble.voting.linear import LinearRule, LinearTally
from ensemble.voting.strategy import Question, SecondRound, Task
from ensemble.voting.weighted import check_choices, open_linear_tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Borda:
    """S_y = sum of w_i * (number of choices that member i ranks below y) (Borda 1781).

    A ballot ranks the choices by its probabilities; one without them ranks its choice first and all others equal.
    Equal ones share the points of the places that they take (as in Emerson 2013), so every ballot gives
    m (m - 1) / 2 points in all, and no two choices of one ballot are further apart than m - 1.

    The agreement is the share of the cast weight whose first choice is the answer. The margin is the lead as a share
    of the largest one that the ballots cast could make.
    """

    name: str = "borda"
    tasks: frozenset[Task] = frozenset({Task.CHOICE})
    is_heavy: bool = False
    second_round: SecondRound | None = None

    def open_tally(self, question: Question) -> LinearTally:
        """Start an empty count."""
        check_choices(self.name, question)
        rule = LinearRule(
            strategy=self.name,
            admit=admit_choice,
            share=_points,
            one=2,  # shared points are whole halves
            reach=2 * (len(question.choices) - 1),
            splits_weight=False,
        )
        return open_linear_tally(rule, question, [voter.weight for voter in question.panel])


def _points(ballot: Ballot, question: Question) -> dict[str, int]:
    marks: Sequence[float] = ballot.probabilities or [float(choice == ballot.choice) for choice in question.choices]
    points_by_mark: dict[float, int] = {}
    num_below = 0
    for mark in sorted(set(marks)):
        num_equal = marks.count(mark)
        points_by_mark[mark] = 2 * num_below + num_equal - 1  # twice the mean of the places num_below ...
        num_below += num_equal
    return {choice: points_by_mark[mark] for choice, mark in zip(question.choices, marks, strict=True)}
