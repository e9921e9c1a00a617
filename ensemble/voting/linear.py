"""The running count of rules that add up: every ballot adds its weight, times a number a candidate, to the sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ensemble.errors import InvalidRequestError
from ensemble.voting.admission import Admit
from ensemble.voting.ballot import Ballot, Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.exact import ONE, exact
from ensemble.voting.ranking import Poll, decide_poll, margin_of, rank
from ensemble.voting.strategy import Question
from ensemble.voting.turnout import Turnout

Share = Callable[[Ballot, Question], Mapping[str, int]]
"""What one unit of a ballot's weight adds to candidates, in units of the rule's ``one``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearRule:
    """How a ballot is admitted and what it adds.

    A share of 1.0 is ``one``. ``reach`` (in the same units) is the most by which one ballot of weight 1 can move the
    gap between two candidates, a candidate that nobody has named yet included: the lossless stop rests on it.
    ``splits_weight`` says that a ballot's shares are parts of its weight, so that a sum is the weight that backs a
    candidate; otherwise those back it whose first choice it is.
    """

    strategy: str
    admit: Admit
    share: Share
    one: int
    reach: int
    splits_weight: bool


class LinearTally(NamedTuple):
    """S_y = ln prior_y + sum of w_i * share_i(y), kept up to date ballot by ballot.

    Scores are exact (units of ``ONE * rule.one``), so no order of arrival can show in them, not even at a tie. Adding
    a ballot takes arithmetic on the candidates, whatever came before and however many are on the panel.
    """

    rule: LinearRule
    turnout: Turnout
    scores: Mapping[str, int]

    def add(self, vote: Vote) -> LinearTally:
        """Count one member's ballot or abstention."""
        rule, roll = self.rule, self.turnout.roll
        admitted = rule.admit(vote, roll.question) if isinstance(vote, Ballot) else vote
        turnout = self.turnout.add(admitted)
        if not isinstance(admitted, Ballot):
            return LinearTally(rule=rule, turnout=turnout, scores=self.scores)
        weight = roll.weights[admitted.member]
        scores = dict(self.scores)
        for answer, share in rule.share(admitted, roll.question).items():
            scores[answer] = scores.get(answer, 0) + weight * share
        return LinearTally(rule=rule, turnout=turnout, scores=scores)

    def vote_of(self, member: str) -> Vote:
        """Give a member's vote as it was counted."""
        return self.turnout.vote_of(member)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Members who have neither voted nor abstained, in the panel's order."""
        return self.turnout.waiting

    @property
    def num_cast(self) -> int:
        """Ballots counted so far."""
        return self.turnout.num_cast

    def is_decided(self) -> bool:
        """Say whether no completion of the vote can change the answer or whether it is degraded.

        The confidence is that of the ballots that are in; those still out could raise or lower it.
        """
        turnout = self.turnout
        if turnout.is_complete:
            return True
        if not turnout.num_cast or not turnout.roll.question.quorum.stop_early:  # priors alone decide nothing
            return False
        return self._is_lead_safe() and turnout.is_soundness_known

    def _is_lead_safe(self) -> bool:
        """Compare the lead with what is still out: one vote moves a gap by at most its ``|weight|`` times the reach.

        The lead must be larger by more than a tie, because votes still out can turn the tie rules.
        """
        turnout, rule = self.turnout, self.rule
        ranked = sorted(self.scores.values())
        best = ranked[-1] if ranked else 0
        rival = ranked[-2] if len(ranked) > 1 else 0
        if not turnout.roll.question.choices:
            rival = max(rival, 0)  # an answer that nobody has given yet
        return best - rival > turnout.waiting_weight * rule.reach + turnout.roll.tolerance * rule.one

    def is_certified(self) -> bool:
        """Say whether a certificate of the question's calibration lets the votes that are in end the vote.

        It must fit who has voted for the leader and who has not, and the leader's margin. Nobody may have abstained,
        but for those who were stopped: the certificates are about the panel with everyone's vote still to come, and
        the items on which somebody has failed are others. As with the lossless stop, votes still out must not be able
        to change whether the decision is degraded.
        """
        turnout, calibration = self.turnout, self.turnout.question.calibration
        if calibration is None or not calibration.certificates or not turnout.num_cast:
            return False
        if turnout.has_failures:
            return False
        if not turnout.question.quorum.stop_early or not turnout.is_soundness_known:
            return False
        poll = self._poll()
        ranked = rank(poll)
        backers = frozenset(ballot.member for ballot in poll.ballots_by_answer.get(ranked[0], ()))
        others = frozenset(ballot.member for ballot in self.turnout.ballots) - backers
        margin = margin_of(poll, ranked)
        return any(
            certificate.min_margin <= margin and certificate.backers == backers and certificate.others == others
            for certificate in calibration.certificates
        )

    def decide(self, decided_by: DecidedBy) -> Decision:
        """Give the decision with what is in."""
        self.turnout.check_decidable(
            decided_by,
            is_decided=decided_by is DecidedBy.LOSSLESS_QUORUM and self.is_decided(),
            is_certified=decided_by is DecidedBy.RISK_QUORUM and self.is_certified(),
        )
        return decide_poll(self._poll(), decided_by)

    def _poll(self) -> Poll:
        turnout, rule = self.turnout, self.rule
        ballots_by_answer: dict[str, tuple[Ballot, ...]] = {}
        ballots = turnout.ballots
        for ballot in ballots:
            if (choice := ballot.choice) is not None:
                ballots_by_answer[choice] = (*ballots_by_answer.get(choice, ()), ballot)
        return Poll(
            strategy=rule.strategy,
            turnout=turnout,
            scores=self.scores,
            ballots=ballots,
            ballots_by_answer=ballots_by_answer,
            unit=ONE * rule.one,
            scale=turnout.cast_weight * rule.reach,
            tolerance=turnout.tolerance * rule.one,
            priors=open_scores(turnout.question, rule.one) if turnout.question.calibration else {},
            splits_weight=rule.splits_weight,
        )


def open_scores(question: Question, one: int) -> dict[str, int]:
    """Start every declared choice at its log-prior or 0, in the declared order; without choices there are none yet.

    Raises:
        InvalidRequestError: one choice alone, a blank one, or the same one twice.
    """
    choices = question.choices
    if len(choices) == 1 or len(set(choices)) < len(choices) or not all(map(str.strip, choices)):
        raise InvalidRequestError("choices", "they are no choice", "give two or more that differ, none of them blank")
    if question.calibration is None or not question.calibration.log_priors:
        return dict.fromkeys(choices, 0)
    priors = (exact(prior) * one for prior in question.calibration.log_priors)
    return dict(zip(choices, priors, strict=True))
