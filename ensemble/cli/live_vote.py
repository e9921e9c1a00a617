"""One vote as a client hears it: who has said what so far, and what it adds up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ensemble.cli.terminal import seconds
from ensemble.router.request import TextPiece
from ensemble.voting.ballot import Abstention, AbstentionReason, Ballot, Vote, Voter
from ensemble.voting.decision import DecidedBy, Decision

_CAUSE_BY_DECIDED_BY = {
    DecidedBy.ALL: "everyone was heard",
    DecidedBy.LOSSLESS_QUORUM: "lossless quorum: nobody still out could change the answer",
    DecidedBy.RISK_QUORUM: "risk quorum: those still out hardly ever change such a vote",
    DecidedBy.STAGE: "those asked first were enough",
    DecidedBy.FIRST_TOKEN: "the text that began first was taken without a vote",
    DecidedBy.DEADLINE: "time was up",
}

Shown = TextPiece | Vote | Decision
"""The events that are drawn: a record is for a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberProgress:
    """How far one member is: its text so far, and its vote when it has one."""

    voter: Voter
    text: str = ""
    vote: Vote | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveVote:
    """A vote under way; members are in the panel's order. ``elapsed_s`` runs from asking to the latest event."""

    members: tuple[MemberProgress, ...]
    choices: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    decision: Decision | None = None

    @classmethod
    def of(cls, panel: Sequence[Voter], choices: Sequence[str] = ()) -> LiveVote:
        """Begin with nobody heard."""
        return cls(members=tuple(MemberProgress(voter=voter) for voter in panel), choices=tuple(choices))

    def hear(self, event: Shown, *, elapsed_s: float) -> LiveVote:
        """Take in one event."""
        members = self.members
        # The decision's own ballots know the short answers that were read from texts.
        news = _votes_of(event) if isinstance(event, Decision) else (event,)
        for said in news:
            members = _with_said(members, said)
        decision = event if isinstance(event, Decision) else self.decision
        return replace(self, members=members, elapsed_s=elapsed_s, decision=decision)

    @property
    def tally(self) -> dict[str, float]:
        """Weight behind each candidate: first choices while members are out, the decision's own count after it."""
        if self.decision is not None:
            counted = {candidate.answer: candidate.weight for candidate in self.decision.candidates}
            return {**counted, **{choice: 0.0 for choice in self.choices if choice not in counted}}
        tally = dict.fromkeys(self.choices, 0.0)
        for member in self.members:
            if isinstance(member.vote, Ballot) and member.vote.choice is not None:
                tally[member.vote.choice] = tally.get(member.vote.choice, 0.0) + member.voter.weight
        return tally

    @property
    def cancelled(self) -> tuple[str, ...]:
        """Members that were stopped because the vote was decided."""
        return tuple(
            member.voter.member
            for member in self.members
            if isinstance(member.vote, Abstention) and member.vote.reason is AbstentionReason.CANCELLED
        )


def _votes_of(decision: Decision) -> tuple[Vote, ...]:
    return (*decision.ballots, *decision.abstentions)


def _with_said(members: tuple[MemberProgress, ...], said: TextPiece | Vote) -> tuple[MemberProgress, ...]:
    """Give the members with what one of them said; one who was not on the panel is put at its end."""
    found = next((member for member in members if member.voter.member == said.member), None)
    before = found or MemberProgress(voter=Voter(member=said.member, family=getattr(said, "family", "")))
    after = replace(before, text=before.text + said.text) if isinstance(said, TextPiece) else replace(before, vote=said)
    if found is None:
        return (*members, after)
    return tuple(after if member is found else member for member in members)


def describe_decision(decision: Decision, *, elapsed_s: float) -> str:
    """Tell in one sentence when and by what the vote was decided, and how clearly."""
    cause = _CAUSE_BY_DECIDED_BY[decision.decided_by]
    facts = [
        f"decided after {len(decision.ballots)} of {decision.num_asked} ballots at {seconds(elapsed_s)} ({cause})",
        f"{decision.strategy}: agreement {decision.agreement:.2f}, margin {decision.margin:.2f}",
    ]
    if decision.confidence is not None:
        facts.append(f"confidence {decision.confidence:.2f}")
    if decision.withheld:
        facts.append("withheld: that is too little, the answer is a guess")
    if decision.label_set:
        facts.append(f"not ruled out: {', '.join(decision.label_set)}")
    if decision.replaces_stream:
        facts.append(f"replaces what {decision.streamed_member} wrote")
    if decision.degraded:
        facts.append("degraded: too little weight or too few families took part")
    return "; ".join(facts)
