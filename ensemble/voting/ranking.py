"""The order of the candidates, ties included, and the decision that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ensemble.voting.ballot import Ballot
from ensemble.voting.decision import Candidate, DecidedBy, Decision
from ensemble.voting.turnout import Turnout

Exact = int | Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """What a strategy counted: its name, the turnout, a score for every candidate, and each one's own ballots.

    Scores are exact, in units: ``unit`` is 1.0 of them, ``scale`` is what a score is divided by to become a share, and
    scores closer than ``tolerance`` are tied. Declared choices without a vote are candidates too.
    """

    strategy: str
    turnout: Turnout
    scores: Mapping[str, Exact]
    ballots_by_answer: Mapping[str, tuple[Ballot, ...]]
    unit: int
    scale: int
    tolerance: Exact


def decide_poll(poll: Poll, decided_by: DecidedBy) -> Decision:
    """Rank the candidates and report the first, with the evidence."""
    ranked = _rank(poll)
    lead = poll.scores[ranked[0]] - (poll.scores[ranked[1]] if len(ranked) > 1 else 0)
    turnout = poll.turnout
    return Decision(
        answer=ranked[0],
        strategy=poll.strategy,
        decided_by=decided_by,
        agreement=_share(poll.scores[ranked[0]], poll.scale),
        margin=_share(lead, poll.scale),
        confidence=None,
        degraded=not turnout.is_sound,
        num_asked=len(turnout.weights),
        families=turnout.families,
        candidates=_candidates(poll, ranked),
        ballots=turnout.ballots,
        abstentions=turnout.abstentions(decided_by),
    )


def _rank(poll: Poll) -> list[str]:
    """Sort the candidates by score, and those tied with the first by the tie rules.

    Ties go to the higher mean log-probability (weighted; only when every backer of every tied candidate has one), then
    to the candidate of the member whose own weight is largest, then to the choice declared first, or to the text that
    sorts first. Nothing depends on the order of arrival.
    """
    best = max(poll.scores.values())
    place_by_answer = {answer: n for n, answer in enumerate(poll.turnout.question.choices or sorted(poll.scores))}
    in_place = sorted(poll.scores, key=place_by_answer.__getitem__)
    tied = [answer for answer in in_place if best - poll.scores[answer] <= poll.tolerance]
    rest = [answer for answer in in_place if best - poll.scores[answer] > poll.tolerance]
    rest.sort(key=poll.scores.__getitem__, reverse=True)  # stable: equal ones stay in place
    if len(tied) > 1:
        own_weights = {voter.member: voter.weight for voter in poll.turnout.question.panel}
        tied.sort(
            key=lambda answer: _heaviest_backer(poll.ballots_by_answer.get(answer, ()), own_weights), reverse=True
        )
        _sort_by_logprob(tied, poll)
    return tied + rest


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


def _candidates(poll: Poll, ranked: list[str]) -> tuple[Candidate, ...]:
    got_votes = (answer for answer in ranked[1:] if poll.scores[answer] or poll.ballots_by_answer.get(answer))
    return tuple(
        Candidate(
            answer=answer,
            weight=float(poll.scores[answer] / poll.unit),
            members=tuple(ballot.member for ballot in poll.ballots_by_answer.get(answer, ())),
        )
        for answer in (ranked[0], *got_votes)
    )


def _share(score: Exact, scale: int) -> float:
    return float(max(score, 0) / scale) if scale else 0.0
