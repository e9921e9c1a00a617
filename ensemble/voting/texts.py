"""Texts that were cast, and the running count of the rules that choose among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ensemble.errors import InvalidRequestError
from ensemble.voting.admission import Admit, admit_free_text
from ensemble.voting.ballot import Ballot, Vote, Voter
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.ranking import Poll
from ensemble.voting.strategy import Question
from ensemble.voting.turnout import TIES_PER_WEIGHT, Turnout, open_turnout


def distinct_texts(votes: Iterable[Vote], panel: Sequence[Voter]) -> tuple[str, ...]:
    """Give the texts of votes as a tally counted them, each once, in the order of the panel whatever the votes' order.

    A short answer is its normalised answer, any other text is itself without the space around it.
    """
    text_by_member = {vote.member: _text_of(vote) for vote in votes if isinstance(vote, Ballot)}
    return tuple(dict.fromkeys(text_by_member[voter.member] for voter in panel if voter.member in text_by_member))


@dataclass(frozen=True, slots=True, kw_only=True)
class CastTexts:
    """The ballots of one vote by their text, in the panel's order."""

    strategy: str
    turnout: Turnout
    ballots_by_text: Mapping[str, tuple[Ballot, ...]]

    @property
    def texts(self) -> tuple[str, ...]:
        """The distinct texts."""
        return tuple(self.ballots_by_text)

    def weight_of(self, texts: Iterable[str]) -> int:
        """Sum the exact weights of those who gave one of ``texts``."""
        return sum(self.turnout.weights[ballot.member] for text in texts for ballot in self.ballots_by_text[text])

    def share_of(self, text: str) -> Fraction:
        """Give the share of the cast weight that a text has; nothing when no weight was cast."""
        cast = self.turnout.cast_weight
        return Fraction(self.weight_of([text]), cast) if cast else Fraction()

    def poll(
        self,
        share_by_answer: Mapping[str, Fraction],
        ballots_by_answer: Mapping[str, tuple[Ballot, ...]] | None = None,
    ) -> Poll:
        """Count exact shares in [0, 1], one an answer; answers are the texts unless ballots are given for others."""
        return Poll(
            strategy=self.strategy,
            turnout=self.turnout,
            scores=share_by_answer,
            ballots_by_answer=self.ballots_by_text if ballots_by_answer is None else ballots_by_answer,
            unit=1,
            scale=1,
            tolerance=Fraction(1, TIES_PER_WEIGHT),
        )


Settle = Callable[[CastTexts, DecidedBy], Decision]
"""Decides among two texts or more, or takes the only one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTally:
    """The texts that are in; nothing is compared before the decision."""

    strategy: str
    turnout: Turnout
    admit: Admit
    settle: Settle

    def add(self, vote: Vote) -> TextTally:
        """Count one member's ballot or abstention."""
        admitted = self.admit(vote, self.turnout.question) if isinstance(vote, Ballot) else vote
        return replace(self, turnout=self.turnout.add(admitted))

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
        """Say whether everyone has voted or abstained: a late text may win outright, so there is no lossless stop."""
        return self.turnout.is_complete

    def is_certified(self) -> bool:
        """Say no: a certificate is about sums, which these rules do not have before all texts are in."""
        return False

    def decide(self, decided_by: DecidedBy) -> Decision:
        """Give the decision with what is in.

        Raises:
            InvalidRequestError: the question lacks the evidence that the rule needs about two texts or more.
        """
        self.turnout.check_decidable(decided_by, is_decided=self.is_decided())
        ballots_by_text: dict[str, tuple[Ballot, ...]] = {}
        for ballot in self.turnout.ballots:
            text = _text_of(ballot)
            ballots_by_text[text] = (*ballots_by_text.get(text, ()), ballot)
        cast = CastTexts(strategy=self.strategy, turnout=self.turnout, ballots_by_text=ballots_by_text)
        return self.settle(cast, decided_by)


def open_text_tally(strategy: str, question: Question, settle: Settle, *, admit: Admit | None = None) -> TextTally:
    """Start an empty count of whole texts, or of what ``admit`` reads out of them.

    Raises:
        InvalidRequestError: there are choices, or a weight is negative, which no share of the vote can be.
    """
    if question.choices:
        raise InvalidRequestError("choices", f"{strategy} votes on texts", "leave them out, or ask for weighted_vote")
    if any(voter.weight < 0 for voter in question.panel):
        raise InvalidRequestError("panel", f"{strategy} cannot use negative weights", "give weights of 0 or more")
    turnout = open_turnout(question, [voter.weight for voter in question.panel])
    return TextTally(strategy=strategy, turnout=turnout, admit=admit or _admit_whole_text, settle=settle)


def _admit_whole_text(ballot: Ballot, question: Question) -> Vote:
    # An answer that another rule read from the text (in a vote that is counted again) is not this rule's text.
    return admit_free_text(ballot if ballot.choice is None else replace(ballot, choice=None), question)


def _text_of(ballot: Ballot) -> str:
    return ballot.choice if ballot.choice is not None else (ballot.text or "").strip()
