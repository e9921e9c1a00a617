"""Rules that split weights: majority, weighted vote, and soft vote (the linear pool)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ensemble.errors import InvalidRequestError
from ensemble.voting.admission import admit_choice, admit_distribution, admit_short_answer
from ensemble.voting.ballot import Ballot
from ensemble.voting.exact import ONE, exact
from ensemble.voting.linear import LinearRule, LinearTally, open_scores
from ensemble.voting.strategy import Question, SecondRound, Task
from ensemble.voting.turnout import open_turnout


@dataclass(frozen=True, slots=True, kw_only=True)
class Majority:
    """The answer that most ballots name: S_y = number of ballots for y (plurality; Condorcet 1785 for two choices).

    A member's weight speaks only in a tie.
    """

    name: str = "majority"
    tasks: frozenset[Task] = frozenset({Task.CHOICE, Task.SHORT_ANSWER})
    is_heavy: bool = False
    second_round: SecondRound | None = None

    def open_tally(self, question: Question) -> LinearTally:
        """Start an empty count; ``min_weight`` is then a share of the panel's heads."""
        return _open_hard_tally(self.name, question, [1.0] * len(question.panel))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedVote:
    """The answer with the most weight: S_y = sum of w_i over the ballots for y.

    With w_i = ln(p_i (K-1) / (1 - p_i)) it is the optimal rule for independent members of accuracy p_i whose wrong
    answers spread evenly over K - 1 others (Nitzan & Paroush 1982; Grofman, Owen & Feld 1983).
    """

    name: str = "weighted_vote"
    tasks: frozenset[Task] = frozenset({Task.CHOICE, Task.SHORT_ANSWER})
    is_heavy: bool = False
    second_round: SecondRound | None = None

    def open_tally(self, question: Question) -> LinearTally:
        """Start an empty count."""
        return _open_hard_tally(self.name, question, [voter.weight for voter in question.panel])


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftVote:
    """The linear pool: S_y = sum of w_i * P_i(y) (Stone 1961, The opinion pool)."""

    name: str = "soft_vote"
    tasks: frozenset[Task] = frozenset({Task.CHOICE})
    is_heavy: bool = False
    second_round: SecondRound | None = None

    def open_tally(self, question: Question) -> LinearTally:
        """Start an empty count."""
        check_choices(self.name, question)
        rule = LinearRule(
            strategy=self.name, admit=admit_distribution, share=_split, one=ONE, reach=ONE, splits_weight=True
        )
        return open_linear_tally(rule, question, [voter.weight for voter in question.panel])


def open_linear_tally(rule: LinearRule, question: Question, weights: list[float]) -> LinearTally:
    """Start an empty count by a rule, each ballot counting the weight given for it, in the panel's order."""
    return LinearTally(rule=rule, turnout=open_turnout(question, weights), scores=open_scores(question, rule.one))


def check_choices(strategy: str, question: Question) -> None:
    """Refuse a question without choices to a rule that counts probabilities.

    Raises:
        InvalidRequestError: there are none.
    """
    if not question.choices:
        raise InvalidRequestError("choices", f"{strategy} needs some", "declare them, or ask for weighted_vote")


def _open_hard_tally(strategy: str, question: Question, weights: list[float]) -> LinearTally:
    return open_linear_tally(_hard_rule(strategy, bool(question.choices)), question, weights)


@cache
def _hard_rule(strategy: str, has_choices: bool) -> LinearRule:  # noqa: FBT001  a key of the cache
    admit = admit_choice if has_choices else admit_short_answer
    return LinearRule(strategy=strategy, admit=admit, share=_whole, one=1, reach=1, splits_weight=True)


def _whole(ballot: Ballot, question: Question) -> dict[str, int]:  # noqa: ARG001  one shape for every rule
    return {} if ballot.choice is None else {ballot.choice: 1}


def _split(ballot: Ballot, question: Question) -> dict[str, int]:
    # A probability may exceed 1 by rounding; above 1 it would move a gap by more than the member's weight.
    shares = (min(exact(probability), ONE) for probability in ballot.probabilities)
    return dict(zip(question.choices, shares, strict=True))
