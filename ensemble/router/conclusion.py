"""From votes that are in to a decision, with models asked about the texts and the voting service where needed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ensemble.errors import QuorumError
from ensemble.router.ballots import LEAST_S
from ensemble.router.ports import MemberClient, VotingClient
from ensemble.router.running_vote import RunningVote
from ensemble.router.second_round import Inquiry, gather_evidence
from ensemble.voting.ballot import OF_THE_WORLD, Abstention
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.record import VoteRecord
from ensemble.voting.strategy import Question, SecondRound

COUNTING_SHARE = 0.2
"""Share of the time left after the ballots that a second round leaves to the voting service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concluder:
    """Decides votes that are over."""

    client_by_member: Mapping[str, MemberClient]
    voting: VotingClient

    async def conclude(self, vote: RunningVote, decided_by: DecidedBy) -> VoteRecord:
        """Decide.

        Raises:
            QuorumError: too few members gave a ballot.
            VotingUnavailableError: the strategy is heavy and the voting service did not answer.
            MemberError: a member that is asked in a second round failed.
        """
        election = vote.election
        if not vote.tally.num_cast:
            raise no_quorum(vote)
        question = vote.question()
        second_round = election.strategy.second_round
        if second_round:
            question = await self._with_evidence(second_round, question, vote)
        decision = await self._decide(question, vote, decided_by)
        if decision.degraded and election.ensemble.fail_without_quorum:
            raise no_quorum(vote)
        return VoteRecord(
            request_id=election.request_id,
            ensemble=election.ensemble.name,
            strategy=election.strategy.name,
            question=question,
            votes=vote.votes,
            decision=decision,
        )

    async def _decide(self, question: Question, vote: RunningVote, decided_by: DecidedBy) -> Decision:
        election = vote.election
        if election.strategy.is_heavy:
            left_s = max(LEAST_S, election.until_s - time.monotonic())
            name = election.strategy.name
            return await self.voting.decide(name, question, vote.votes, decided_by=decided_by, timeout_s=left_s)
        tally = vote.tally
        if question is not election.question:
            tally = election.strategy.open_tally(question)
            for one in vote.votes:
                tally = tally.add(one)
        return tally.decide(decided_by)

    async def _with_evidence(self, kind: SecondRound, question: Question, vote: RunningVote) -> Question:
        election = vote.election
        inquiry = Inquiry(
            request_id=election.request_id,
            prompt=election.prompt,
            panel=question.panel,
            votes=tuple(vote.counted),
            parameters=election.parameters,
        )
        left_s = max(LEAST_S, (election.until_s - time.monotonic()) * (1.0 - COUNTING_SHARE))
        evidence = await gather_evidence(
            kind,
            inquiry,
            clients=self.client_by_member,
            assistant=election.ensemble.assistant_by_round.get(kind, ""),
            timeout_s=left_s,
        )
        return replace(question, evidence=evidence)


def no_quorum(vote: RunningVote) -> QuorumError:
    """Say why an ensemble gives no answer."""
    election = vote.election
    reason_by_member = {one.member: one.reason for one in vote.counted if isinstance(one, Abstention)}
    silent = [voter.member for voter in election.question.panel if voter.member in reason_by_member]
    # A long text loses its middle on the way, and whoever reads it must know whether asking again may help.
    silent.sort(key=lambda member: reason_by_member[member] not in OF_THE_WORLD)
    reasons = ", ".join(f"{member}: {reason_by_member[member]}" for member in silent)
    wanted = election.question.quorum
    reasons = reasons or f"the quorum is {wanted.min_weight:g} of the weight and {wanted.min_families} families"
    return QuorumError(election.ensemble.name, vote.tally.num_cast, len(election.question.panel), reasons)
