"""Minimum Bayes risk: of the texts given, the one most like all the others, by chrF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from ensemble.errors import InvalidRequestError
from ensemble.voting.admission import admit_free_text
from ensemble.voting.ballot import Ballot, Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.ranking import Poll, decide_poll
from ensemble.voting.strategy import Question, Task
from ensemble.voting.turnout import TIES_PER_WEIGHT, Turnout, open_turnout

Utility = Callable[[str, str], float]
"""How good a candidate (first) would be if the other text (second) were the truth, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumBayesRisk:
    """The text with the highest expected utility, every member's text being the truth in proportion to its weight.

    Utility is chrF2 (Popovic 2015; sacrebleu's defaults: characters 1 to 6, beta 2). A text is compared with itself
    too: the ballots are samples of the truth and the candidate's own is one of them, as in the estimator of Eikema &
    Aziz (2022, arXiv:2108.04718; survey: Bertsch et al. 2023, arXiv:2310.01387). So weights count between two
    members, and texts that several members gave count as often as they were given.
    """

    name: str = "mbr"
    tasks: frozenset[Task] = frozenset({Task.FREE_TEXT})
    is_heavy: bool = True

    def open_tally(self, question: Question) -> MbrTally:
        """Start an empty count; weights must not be negative, since no truth has a negative probability."""
        if question.choices:
            raise InvalidRequestError(
                "choices", f"{self.name} votes on texts", "leave them out, or ask for weighted_vote"
            )
        if any(voter.weight < 0 for voter in question.panel):
            raise InvalidRequestError("panel", f"{self.name} cannot use negative weights", "give weights of 0 or more")
        return MbrTally(strategy=self.name, turnout=open_turnout(question, [voter.weight for voter in question.panel]))


@dataclass(frozen=True, slots=True, kw_only=True)
class MbrTally:
    """The texts that are in; nothing is compared before the decision, which compares every pair that differs.

    In the decision a candidate's weight is its expected utility, and so is the agreement: with a utility that only
    knew equal and different, it would be the share of the cast weight. The margin is the lead in expected utility.
    """

    strategy: str
    turnout: Turnout

    def add(self, vote: Vote) -> MbrTally:
        """Count one member's ballot or abstention."""
        admitted = admit_free_text(vote, self.turnout.question) if isinstance(vote, Ballot) else vote
        return replace(self, turnout=self.turnout.add(admitted))

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
        """Say whether everyone has voted or abstained: a late text may win outright, so there is no lossless stop."""
        return not self.turnout.waiting

    def decide(self, decided_by: DecidedBy) -> Decision:
        """Give the decision with what is in."""
        self.turnout.check_decidable(decided_by, is_decided=self.is_decided())
        ballots_by_text: dict[str, tuple[Ballot, ...]] = {}
        for ballot in self.turnout.ballots:
            text = (ballot.text or "").strip()
            ballots_by_text[text] = (*ballots_by_text.get(text, ()), ballot)
        poll = Poll(
            strategy=self.strategy,
            turnout=self.turnout,
            scores=_expected_utilities(ballots_by_text, self.turnout, build_chrf()),
            ballots_by_answer=ballots_by_text,
            unit=1,
            scale=1,
            tolerance=Fraction(1, TIES_PER_WEIGHT),
        )
        return decide_poll(poll, decided_by)


def build_chrf() -> Utility:
    """Give sacrebleu's sentence-level chrF2, between 0 and 1."""
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415  half a second to import, and only this strategy needs it

    chrf = CHRF()
    return lambda candidate, truth: min(chrf.sentence_score(candidate, [truth]).score / 100.0, 1.0)


def _expected_utilities(
    ballots_by_text: dict[str, tuple[Ballot, ...]], turnout: Turnout, utility: Utility
) -> dict[str, Fraction]:
    probability_by_text: dict[str, Fraction] = {}
    for text, ballots in ballots_by_text.items():
        weight = sum(turnout.weights[ballot.member] for ballot in ballots)
        probability_by_text[text] = Fraction(weight, turnout.cast_weight) if turnout.cast_weight else Fraction()
    return {
        candidate: sum(
            (share * Fraction(utility(candidate, truth)) for truth, share in probability_by_text.items() if share),
            Fraction(),
        )
        for candidate in ballots_by_text
    }
