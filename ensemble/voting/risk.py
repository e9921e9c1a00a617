"""How likely the votes still out are to change the leader, by models of the members rather than by certificates.

For panels without logged full votes: members err independently, a wrong answer is any of the others with the same
probability. Correlated members break that, which kappa < 1 softens; an empirical certificate is better (strategy.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ensemble.errors import InvalidRequestError

MAX_PATTERNS = 1_000_000
"""Patterns of votes that are enumerated at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Juror:
    """A member as these models see it: right with probability ``accuracy``, in (0, 1), and counted with ``weight``."""

    accuracy: float
    weight: float


def log_odds_weight(accuracy: float, num_choices: int) -> float:
    """Give ln(p (K-1) / (1-p)), the optimal weight of an independent member (Nitzan & Paroush 1982).

    Raises:
        InvalidRequestError: the accuracy is not inside (0, 1), or there are not two choices.
    """
    if not 0.0 < accuracy < 1.0:
        raise InvalidRequestError("accuracy", f"it is {accuracy}", "give one between 0 and 1, neither included")
    if num_choices < 2:
        raise InvalidRequestError("num_choices", f"there are {num_choices}", "give 2 or more")
    return math.log(accuracy * (num_choices - 1) / (1.0 - accuracy))


def posterior(scores: Sequence[float], *, kappa: float = 1.0) -> tuple[float, ...]:
    """Give softmax(kappa * S): with log-odds weights and kappa 1, Bayes' posterior of independent members."""
    largest = max(scores)
    powers = [math.exp(kappa * (score - largest)) for score in scores]
    total = math.fsum(powers)
    return tuple(power / total for power in powers)


def probability_of_leader(scores: Sequence[float], waiting: Sequence[Juror], *, kappa: float = 1.0) -> float:
    """Give P(the full vote names the present leader | the votes that are in), by enumerating every completion.

    ``scores`` are the sums so far, one a choice, log-priors included. Each truth y has its posterior probability,
    tempered by kappa; given y, the members who are out vote independently. The leader is the first of the largest
    sums. An end at which it is one of several tied counts as that share of a win, since the tie rules may turn it.

    Raises:
        InvalidRequestError: there are more than ``MAX_PATTERNS`` completions, or fewer than two choices.
    """
    leader = max(range(len(scores)), key=scores.__getitem__)
    chances = posterior(scores, kappa=kappa)
    return math.fsum(
        chance * math.fsum(p * _share_of_win(final, leader) for final, p in _completions(scores, waiting, truth))
        for truth, chance in enumerate(chances)
    )


def panel_accuracy(panel: Sequence[Juror], num_choices: int) -> float:
    """Give the probability that a panel of independent members decides right, ties shared evenly, by enumeration.

    What members would reach if their errors were independent: the gap to what they do reach is what correlation costs.

    Raises:
        InvalidRequestError: there are more than ``MAX_PATTERNS`` patterns of votes, or fewer than two choices.
    """
    patterns = _completions([0.0] * num_choices, panel, 0)
    return math.fsum(probability * _share_of_win(final, 0) for final, probability in patterns)


def probability_of_majority(num_leading: int, num_second: int) -> float:
    """Give P(p > 1/2 | votes) for p ~ Beta(num_leading + 1, num_second + 1): the leader is the true majority.

    The Beta rule of adaptive consistency (Aggarwal et al. 2023, arXiv:2305.11860), for one member that is sampled many
    times: it says when to stop sampling. With five members or fewer it never fires before the lossless rule.
    Exact: for whole a and b the Beta's tail is a binomial one, the sum of C(a+b+1, j) / 2^(a+b+1) over j <= a.
    """
    if num_leading < 0 or num_second < 0:
        raise InvalidRequestError("num_votes", "one is negative", "give counts of 0 or more")
    num_tosses = num_leading + num_second + 1
    ways = sum(math.comb(num_tosses, heads) for heads in range(num_leading + 1))
    return float(Fraction(ways, 2**num_tosses))


def votes_to_stop(num_second: int, *, confidence: float) -> int:
    """Give the smallest number of leading votes at which the Beta rule stops sampling.

    Raises:
        InvalidRequestError: the confidence is not in [0, 1).
    """
    if not 0.0 <= confidence < 1.0:
        raise InvalidRequestError("confidence", f"it is {confidence}", "give one in [0, 1)")
    return next(n for n in itertools.count(num_second) if probability_of_majority(n, num_second) >= confidence)


def expected_wait(num_needed: int, num_asked: int, *, mean_s: float = 1.0) -> float:
    """Give the mean time until the k-th of n answers, each taking an exponential time of mean ``mean_s``.

    The k-th order statistic of n exponentials has mean (1/n + 1/(n-1) + ... + 1/(n-k+1)) * mean (Renyi 1953): what an
    early stop after k of n ballots saves against waiting for all.

    Raises:
        InvalidRequestError: not 1 <= num_needed <= num_asked.
    """
    if not 1 <= num_needed <= num_asked:
        problem = f"{num_needed} of {num_asked} is no number of answers"
        raise InvalidRequestError("num_needed", problem, "give 1 to num_asked")
    return mean_s * math.fsum(1.0 / left for left in range(num_asked - num_needed + 1, num_asked + 1))


def _completions(
    scores: Sequence[float], jurors: Sequence[Juror], truth: int
) -> Iterator[tuple[Sequence[float], float]]:
    """Give every way in which the jurors can vote: the final scores, and the probability when ``truth`` is right."""
    num_choices = len(scores)
    if num_choices < 2:
        raise InvalidRequestError("choices", f"there are {num_choices}", "give 2 or more")
    if num_choices ** len(jurors) > MAX_PATTERNS:
        problem = f"{num_choices} choices and {len(jurors)} members make too many patterns"
        raise InvalidRequestError("panel", problem, "use a certificate, or fewer members")
    for pattern in itertools.product(range(num_choices), repeat=len(jurors)):
        final = list(scores)
        probability = 1.0
        for juror, choice in zip(jurors, pattern, strict=True):
            final[choice] += juror.weight
            is_right = choice == truth
            probability *= juror.accuracy if is_right else (1.0 - juror.accuracy) / (num_choices - 1)
        yield final, probability


def _share_of_win(scores: Sequence[float], choice: int) -> float:
    # Sums of floats in another order differ in their last bits: that is a tie.
    best = max(scores)
    if not math.isclose(scores[choice], best, abs_tol=1e-9):
        return 0.0
    return 1.0 / sum(math.isclose(score, best, abs_tol=1e-9) for score in scores)
