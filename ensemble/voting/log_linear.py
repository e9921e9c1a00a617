"""Rules that add logarithms of probabilities: the logarithmic pool, and stacking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ensemble.errors import InvalidRequestError
from ensemble.voting.admission import admit_distribution
from ensemble.voting.ballot import Ballot
from ensemble.voting.exact import ONE, exact, exact_weight
from ensemble.voting.linear import LinearRule, LinearTally
from ensemble.voting.strategy import Question, SecondRound, Task
from ensemble.voting.weighted import check_choices, open_linear_tally

LOG_POOL_FLOOR = 1e-3
"""No ballot says less than this of a choice, nor more than one minus it: one member alone cannot veto a choice.

It bounds what a ballot still out can do, w_i * ln((1 - floor) / floor), so that there is a lossless stop at all. A
lower floor listens to surer members and stops later.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPool:
    """The logarithmic pool, a weighted geometric mean: S_y = sum of w_i * ln P_i(y) (Genest & Zidek 1986, section 3).

    Each P_i is first clipped to [floor, 1 - floor] and divided by its sum. Weights that sum to 1 give the geometric
    mean of opinions; weights of 1 give their product, the posterior of independent members under a flat prior.

    The agreement is the share of the cast weight whose first choice is the answer. The margin is the lead as a share
    of the largest one that the ballots cast could make.
    """

    name: str = "log_pool"
    tasks: frozenset[Task] = frozenset({Task.CHOICE})
    is_heavy: bool = False
    second_round: SecondRound | None = None
    floor: float = LOG_POOL_FLOOR

    def open_tally(self, question: Question) -> LinearTally:
        """Start an empty count."""
        check_choices(self.name, question)
        return _open_log_tally(self.name, question, self.floor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacking:
    """A log-linear model of the truth: S_y = ln prior_y + sum of w_i * ln P_i(y), fitted on labelled items.

    The conditional logit (McFadden 1974) over the members' log-probabilities, as stacked generalisation (Wolpert
    1992) with a log-linear combiner. Its weights come from a calibration and may be negative: a weak sibling can be
    the contrast that makes a stronger one clearer. Probabilities, agreement and margin are as for ``log_pool``.
    """

    name: str = "stacking"
    tasks: frozenset[Task] = frozenset({Task.CHOICE})
    is_heavy: bool = False
    second_round: SecondRound | None = None
    floor: float = LOG_POOL_FLOOR

    def open_tally(self, question: Question) -> LinearTally:
        """Start an empty count.

        Raises:
            InvalidRequestError: there are no choices, or nothing was calibrated: weights made up are not stacking.
        """
        check_choices(self.name, question)
        if question.calibration is None:
            problem = f"{self.name} has no weights without one"
            raise InvalidRequestError("calibration", problem, "calibrate the ensemble, or ask for log_pool")
        return _open_log_tally(self.name, question, self.floor)


def floored_logs(probabilities: Sequence[float], floor: float = LOG_POOL_FLOOR) -> tuple[float, ...]:
    """Give ln P(y) for each choice as the log-linear rules see it: clipped to [floor, 1 - floor], then normalised."""
    clipped = [min(max(probability, floor), 1.0 - floor) for probability in probabilities]
    normaliser = math.log(math.fsum(clipped))
    return tuple(math.log(probability) - normaliser for probability in clipped)


def _open_log_tally(strategy: str, question: Question, floor: float) -> LinearTally:
    rule = LinearRule(
        strategy=strategy,
        admit=admit_distribution,
        share=partial(_log_shares, floor=floor),
        one=ONE,
        reach=exact_weight(math.log(1.0 - floor)) - exact_weight(math.log(floor)),
        splits_weight=False,
    )
    return open_linear_tally(rule, question, [voter.weight for voter in question.panel])


def _log_shares(ballot: Ballot, question: Question, *, floor: float) -> dict[str, int]:
    """Give ``floored_logs`` such that no two of them differ by more than the rule's reach, to the last bit.

    The normaliser is subtracted exactly: what a ballot adds to a gap is then the difference of two logarithms that
    lie between those of the limits, and no rounding comes on top.
    """
    clipped = [min(max(probability, floor), 1.0 - floor) for probability in ballot.probabilities]
    normaliser = exact(math.log(math.fsum(clipped)))
    return {
        choice: exact(math.log(probability)) - normaliser
        for choice, probability in zip(question.choices, clipped, strict=True)
    }
