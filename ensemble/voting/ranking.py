"""The order of the candidates, ties included, and the decision that follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple

from ensemble.voting.ballot import Ballot
from ensemble.voting.decision import Candidate, DecidedBy, Decision
from ensemble.voting.turnout import Turnout

Exact = int | Fraction

# A threshold is the complement of a probability that was seen, and complements are rounded.
ROUNDING = 1e-12


class Poll(NamedTuple):
    """What a strategy counted: its name, the turnout, a score for every candidate, and each one's own ballots.

    Scores are exact, in units: ``unit`` is 1.0 of them, ``scale`` is what a lead is divided by to become a margin, and
    scores closer than ``tolerance`` are tied. Declared choices are all candidates, in their order. ``ballots`` are the
    turnout's. ``priors`` is the part of the scores that no ballot gave. ``splits_weight`` says that a score is the
    weight that backs a candidate, which ``scale`` makes the agreement; otherwise the agreement is the weight of the
    answer's own ballots.
    """

    strategy: str
    turnout: Turnout
    scores: Mapping[str, Exact]
    ballots_by_answer: Mapping[str, tuple[Ballot, ...]]
    unit: int
    scale: int
    tolerance: Exact
    ballots: tuple[Ballot, ...] | None = None
    priors: Mapping[str, Exact] = MappingProxyType({})
    splits_weight: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What a calibration says of the answer."""

    confidence: float | None = None
    withheld: bool = False
    label_set: tuple[str, ...] = ()


def decide_poll(poll: Poll, decided_by: DecidedBy) -> Decision:
    """Rank the candidates and report the first, with the evidence."""
    ranked = rank(poll)
    turnout = poll.turnout
    assessment = _UNCALIBRATED if turnout.question.calibration is None else assess_sums(poll, ranked)
    ballots = turnout.ballots if poll.ballots is None else poll.ballots
    return Decision(
        answer=ranked[0],
        strategy=poll.strategy,
        decided_by=decided_by,
        agreement=_agreement(poll, ranked[0]),
        margin=margin_of(poll, ranked),
        confidence=assessment.confidence,
        withheld=assessment.withheld,
        label_set=assessment.label_set,
        degraded=not turnout.is_sound,
        num_asked=len(turnout.weights),
        families=turnout.families_of([ballot.member for ballot in ballots]),
        candidates=_candidates(poll, ranked),
        ballots=ballots,
        abstentions=turnout.abstentions(decided_by),
    )


def rank(poll: Poll) -> list[str]:
    """Sort the candidates by score, and those tied with the first by the tie rules.

    Ties go to the higher mean log-probability (weighted; only when every backer of every tied candidate has one), then
    to the candidate of the member whose own weight is largest, then to the choice declared first, or to the text that
    sorts first. Nothing depends on the order of arrival.
    """
    scores = poll.scores
    in_place = list(scores) if poll.turnout.question.choices else sorted(scores)
    ranked = sorted(in_place, key=scores.__getitem__, reverse=True)  # stable: equal ones stay in place
    nearest_loser = scores[ranked[0]] - poll.tolerance
    if len(ranked) < 2 or scores[ranked[1]] < nearest_loser:
        return ranked
    tied = [answer for answer in in_place if scores[answer] >= nearest_loser]
    own_weights = {voter.member: voter.weight for voter in poll.turnout.question.panel}
    tied.sort(key=lambda answer: _heaviest_backer(poll.ballots_by_answer.get(answer, ()), own_weights), reverse=True)
    _sort_by_logprob(tied, poll)
    return tied + ranked[len(tied) :]


def margin_of(poll: Poll, ranked: Sequence[str]) -> float:
    """Give the first's lead over the second as a share of the scale, in [0, 1]."""
    lead = poll.scores[ranked[0]] - (poll.scores[ranked[1]] if len(ranked) > 1 else 0)
    return _share(lead, poll.scale)


def assess_sums(poll: Poll, ranked: Sequence[str]) -> Assessment:
    """Turn the sums into calibrated probabilities: softmax(kappa * S), pooled first and calibrated then.

    Kappa is a temperature on the pool (after Rahaman & Thiery 2020, arXiv:2007.08792). Among declared choices the
    probabilities are over all of them; otherwise over the candidates and one answer that nobody gave, whose sum is 0.

    The label set is the split-conformal one (Vovk, Gammerman & Shafer 2005): every choice with a probability of at
    least 1 - threshold. It may be empty in theory; here the answer always belongs to it, which can only raise the
    share of sets that contain the truth, so that the guarantee stays. It is empty when nothing was calibrated, and when
    not everyone of the panel has cast a ballot, as everyone had when the threshold was found.
    """
    question = poll.turnout.question
    calibration = question.calibration
    if calibration is None:
        return _UNCALIBRATED
    if calibration.kappa is None:
        return replace(_UNCALIBRATED, withheld=calibration.withhold_below > 0.0)
    best = poll.scores[ranked[0]]
    gaps = [poll.scores[answer] - best for answer in ranked]
    if not question.choices:
        gaps.append(-best)
    # The tied first need not have the largest sum, and the unseen may: powers are of what is at most 0.
    exponents = [calibration.kappa * float(gap / poll.unit) for gap in gaps]
    largest = max(exponents)
    powers = [math.exp(exponent - largest) for exponent in exponents]
    total = math.fsum(powers)
    confidence = powers[0] / total
    labels: tuple[str, ...] = ()
    is_whole = poll.turnout.num_cast == len(poll.turnout.weights)
    if question.choices and is_whole and calibration.conformal_threshold is not None:
        least = 1.0 - calibration.conformal_threshold - ROUNDING
        chosen = (choice for choice, power in zip(ranked[1:], powers[1:], strict=True) if power / total >= least)
        labels = (ranked[0], *chosen)
    return Assessment(confidence=confidence, withheld=confidence < calibration.withhold_below, label_set=labels)


def _agreement(poll: Poll, answer: str) -> float:
    if poll.splits_weight:
        return _share(poll.scores[answer] - poll.priors.get(answer, 0), poll.scale)
    weights = poll.turnout.weights
    backing = sum(max(weights[ballot.member], 0) for ballot in poll.ballots_by_answer.get(answer, ()))
    return _share(backing, poll.turnout.cast_weight)


def _heaviest_backer(ballots: tuple[Ballot, ...], own_weights: Mapping[str, float]) -> float:
    return max((own_weights[ballot.member] for ballot in ballots), default=float("-inf"))


def _sort_by_logprob(tied: list[str], poll: Poll) -> None:
    means = {answer: _mean_logprob(poll.ballots_by_answer.get(answer, ()), poll.turnout.weights) for answer in tied}
    known = {answer: mean for answer, mean in means.items() if mean is not None}
    if len(known) == len(tied):
        tied.sort(key=known.__getitem__, reverse=True)


def _mean_logprob(ballots: tuple[Ballot, ...], weights: Mapping[str, int]) -> Fraction | None:
    total = sum(abs(weights[ballot.member]) for ballot in ballots)
    logprobs = [ballot.logprob for ballot in ballots if ballot.logprob is not None]
    if not total or len(logprobs) < len(ballots):
        return None
    terms = (abs(weights[ballot.member]) * Fraction(lp) for ballot, lp in zip(ballots, logprobs, strict=True))
    return sum(terms, Fraction()) / total


def _candidates(poll: Poll, ranked: Sequence[str]) -> tuple[Candidate, ...]:
    scores, ballots_by_answer, unit = poll.scores, poll.ballots_by_answer, poll.unit
    candidates = []
    for answer in ranked:
        score, ballots = scores[answer], ballots_by_answer.get(answer, ())
        if score or ballots or answer is ranked[0]:
            members = tuple([ballot.member for ballot in ballots])
            candidates.append(Candidate(answer=answer, weight=float(score / unit), members=members))
    return tuple(candidates)


def _share(score: Exact, scale: int) -> float:
    return min(float(score / scale), 1.0) if scale and score > 0 else 0.0


_UNCALIBRATED = Assessment()
