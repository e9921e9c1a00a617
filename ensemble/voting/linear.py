"""The running count of rules that sum weights: every ballot adds its weight, or shares of it, to candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ensemble.errors import InvalidRequestError
from ensemble.voting.admission import Admit
from ensemble.voting.ballot import Ballot, Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.exact import ONE
from ensemble.voting.ranking import Poll, decide_poll
from ensemble.voting.strategy import Question
from ensemble.voting.turnout import Turnout

Share = Callable[[Ballot, Question], Mapping[str, int]]
"""Splits a ballot over candidates: each part from 0 to ``ONE``, so that a vote moves no gap by more than its weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTally:
    """S_y = sum of w_i * P_i(y), kept up to date ballot by ballot.

    Scores are exact (units of ``ONE * ONE``), so no order of arrival can show in them, not even at a tie. Adding a
    ballot takes arithmetic on the candidates that it names, whatever came before.
    """

    strategy: str
    admit: Admit
    share: Share
    turnout: Turnout
    scores: Mapping[str, int]

    def add(self, vote: Vote) -> LinearTally:
        """Count one member's ballot or abstention."""
        question = self.turnout.question
        admitted = self.admit(vote, question) if isinstance(vote, Ballot) else vote
        turnout = self.turnout.add(admitted)
        if not isinstance(admitted, Ballot):
            return replace(self, turnout=turnout)
        weight = turnout.weights[admitted.member]
        scores = dict(self.scores)
        for answer, share in self.share(admitted, question).items():
            scores[answer] = scores.get(answer, 0) + weight * share
        return replace(self, turnout=turnout, scores=scores)

    def vote_of(self, member: str) -> Vote:
        """Give a member's vote as it was counted."""
        return self.turnout.votes[member]

    @property
    def waiting(self) -> tuple[str, ...]:
        """Members who have neither voted nor abstained, in the panel's order."""
        return self.turnout.waiting

    @property
    def num_cast(self) -> int:
        """Ballots counted so far."""
        return len(self.turnout.ballots)

    def is_decided(self) -> bool:
        """Say whether no completion of the vote can change the answer or whether it is degraded."""
        if not self.turnout.waiting:
            return True
        return self.turnout.question.quorum.stop_early and self._is_lead_safe() and self.turnout.is_soundness_known

    def _is_lead_safe(self) -> bool:
        """Compare the lead with the weight still out: one vote moves a gap by at most its ``|weight|``.

        The lead must be larger by more than a tie, because votes still out can turn the tie rules.
        """
        best, *rivals = sorted(self.scores.values(), reverse=True) or [0]
        if not self.turnout.question.choices:
            rivals.append(0)  # an answer that nobody has given yet
        return best - max(rivals) > (self.turnout.waiting_weight + self.turnout.tolerance) * ONE

    def decide(self, decided_by: DecidedBy) -> Decision:
        """Give the decision with what is in."""
        self.turnout.check_decidable(decided_by, is_decided=self.is_decided())
        ballots_by_answer: dict[str, tuple[Ballot, ...]] = {}
        for ballot in self.turnout.ballots:
            if ballot.choice is not None:
                ballots_by_answer[ballot.choice] = (*ballots_by_answer.get(ballot.choice, ()), ballot)
        poll = Poll(
            strategy=self.strategy,
            turnout=self.turnout,
            scores=self.scores,
            ballots_by_answer=ballots_by_answer,
            unit=ONE * ONE,
            scale=self.turnout.cast_weight * ONE,
            tolerance=self.turnout.tolerance * ONE,
        )
        return decide_poll(poll, decided_by)


def open_scores(question: Question) -> dict[str, int]:
    """Start every declared choice at 0, in the declared order; without choices there are no candidates yet.

    Raises:
        InvalidRequestError: one choice alone, a blank one, or the same one twice.
    """
    choices = question.choices
    if len(choices) == 1 or len(set(choices)) < len(choices) or not all(choice.strip() for choice in choices):
        raise InvalidRequestError("choices", "they are no choice", "give two or more that differ, none of them blank")
    return dict.fromkeys(choices, 0)
