"""One vote while its members answer: what is counted, who was asked, and whether it is over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ensemble.errors import InvalidRequestError
from ensemble.router.election import Election
from ensemble.voting.asking import is_enough
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote
from ensemble.voting.calibrated import calibrate_ballot
from ensemble.voting.decision import DecidedBy
from ensemble.voting.strategy import Question


class RunningVote:
    """Counts votes on the whole panel as they come; a new vote may end it, or call for the next stage.

    ``decided_by`` is None while it runs. ``counted`` has the votes as the tally took them, in the order they came.
    """

    def __init__(self, election: Election) -> None:
        self.election = election
        self.tally = election.strategy.open_tally(election.question)
        self.counted: list[Vote] = []
        self.decided_by: DecidedBy | None = None
        self._vote_by_member: dict[str, Vote] = {}
        panel = tuple(voter.member for voter in election.question.panel)
        self._stages: Iterator[tuple[str, ...]] = iter(election.plan.stages if election.plan else (panel,))
        self._begun: list[tuple[str, ...]] = []
        self._asked: set[str] = set()
        self._late: set[str] = set()
        calibration = election.question.calibration
        self._has_certificates = bool(calibration and calibration.certificates)

    @property
    def num_stages(self) -> int:
        """Stages that have begun."""
        return len(self._begun)

    def next_stage(self, *, is_due: bool = False) -> tuple[str, ...]:
        """Name those to be asked now; nobody when everyone was asked, or those who were have not all voted.

        When it ``is_due``, those who have not are late: they are not waited for before the next stage.
        """
        if not is_due and self._pending:
            return ()
        self._late |= self._asked.difference(self._vote_by_member) if is_due else set()
        stage = next(self._stages, ())
        if stage:
            self._begun.append(stage)
        self._asked.update(stage)
        return stage

    def add(self, vote: Vote) -> Vote:
        """Count one vote, a faulty ballot as the member's error; returns it as it was counted."""
        if isinstance(vote, Ballot) and vote.member in self.election.corrections:
            correction = self.election.corrections[vote.member]
            vote = calibrate_ballot(vote, self.election.question.choices, correction)
        try:
            self.tally = self.tally.add(vote)
        except InvalidRequestError as error:
            vote = Abstention(
                member=vote.member, reason=AbstentionReason.ERROR, detail=str(error), latency_s=vote.latency_s
            )
            self.tally = self.tally.add(vote)
        self._vote_by_member[vote.member] = vote
        if self.decided_by is DecidedBy.LOSSLESS_QUORUM and isinstance(vote, Ballot) and not self.tally.waiting:
            self.decided_by = self._full_turnout()  # The one who is streamed was the last that was out.
        counted = self.tally.vote_of(vote.member)
        self.counted.append(counted)
        return counted

    def is_over(self) -> bool:
        """Say whether the votes that are in end the vote; ``decided_by`` then says how."""
        tally = self.tally
        if tally.is_decided():
            self.decided_by = DecidedBy.LOSSLESS_QUORUM if tally.waiting else self._full_turnout()
        elif self._has_certificates and tally.is_certified():
            self.decided_by = DecidedBy.RISK_QUORUM
        elif self._is_stage_enough():
            self.decided_by = DecidedBy.STAGE
        return self.decided_by is not None

    def end(self, decided_by: DecidedBy) -> None:
        """Let something other than the votes end it."""
        self.decided_by = decided_by

    def run_out(self) -> DecidedBy:
        """Note that nobody says anything any more: it is over, or time is up."""
        if self.decided_by is None:
            self.decided_by = DecidedBy.DEADLINE if self.tally.waiting else self._full_turnout()
        return self.decided_by

    @property
    def out(self) -> tuple[str, ...]:
        """Members whose votes are missing: those asked, and all others, too, where time was up."""
        waiting = self.tally.waiting
        if self.decided_by is DecidedBy.DEADLINE:
            return waiting
        return tuple(member for member in waiting if member in self._asked)

    @property
    def votes(self) -> tuple[Vote, ...]:
        """One vote a member of the question's panel, in its order, as the tally was given them."""
        members = (voter.member for voter in self.election.question.panel)
        return tuple(self._vote_by_member[member] for member in members if member in self._vote_by_member)

    def question(self) -> Question:
        """Give what was voted on in the end: members that were not needed are not on the panel.

        A label set holds for the whole panel alone. Where time was up the panel stays whole: its quorum is asked for.
        """
        question = self.election.question
        if len(self._vote_by_member) == len(question.panel):
            return question
        calibration = question.calibration
        return replace(
            question,
            panel=tuple(voter for voter in question.panel if voter.member in self._vote_by_member),
            calibration=replace(calibration, conformal_threshold=None) if calibration else None,
        )

    def _is_stage_enough(self) -> bool:
        plan = self.election.plan
        if plan is None or self._pending:
            return False
        late = (member for member in self.tally.waiting if member in self._late)
        silent = (Abstention(member=member, reason=AbstentionReason.DEADLINE) for member in late)
        return is_enough(
            plan, self.election.question, self.election.strategy, (*self._vote_by_member.values(), *silent)
        )

    @property
    def _pending(self) -> bool:
        """Whether a member that was asked, and is not late, has not voted."""
        return len(self._vote_by_member.keys() | self._late) < len(self._asked)

    def _full_turnout(self) -> DecidedBy:
        late = (vote for vote in self.counted if isinstance(vote, Abstention))
        is_late = any(vote.reason is AbstentionReason.DEADLINE for vote in late)
        return DecidedBy.DEADLINE if is_late else DecidedBy.ALL
