"""A decided vote with everything that led to it, so that it can be counted again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ensemble.errors import InvalidRequestError
from ensemble.voting.ballot import Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.registry import get_strategy
from ensemble.voting.strategy import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRecord:
    """What was counted, and what came out.

    ``votes`` has one a member of the question's panel, in its order, as they were given to the tally: ballots are
    corrected by their member's calibration already, texts are whole. The question has the weights, the calibration
    and the evidence that were used.
    """

    request_id: str
    ensemble: str
    strategy: str
    question: Question
    votes: tuple[Vote, ...]
    decision: Decision


def recount(record: VoteRecord, *, strategy: str = "") -> Decision:
    """Count a record's votes again, by its own strategy or by another one.

    By its own strategy the decision is the recorded one. Another strategy counts the ballots with the recorded
    weights and without the calibration, which belongs to the sums of the recorded strategy alone.

    Raises:
        InvalidRequestError: the votes do not fit the question, or the strategy cannot count them.
        QuorumError: there is no ballot.
    """
    is_own = strategy in {"", record.strategy}
    if not is_own and strategy != "majority" and any(voter.weight < 0 for voter in record.question.panel):
        problem = f"some weights of {record.strategy} are negative, and {strategy} cannot count with them"
        raise InvalidRequestError("strategy", problem, "ask for majority")
    question = record.question if is_own else replace(record.question, calibration=None)
    tally = get_strategy(strategy or record.strategy).open_tally(question)
    for vote in record.votes:
        tally = tally.add(vote)
    if not is_own:
        # The record has a vote of everyone; what let the recorded strategy stop earlier is not the other one's.
        return tally.decide(DecidedBy.ALL)
    return mark_stream(tally.decide(record.decision.decided_by), record.decision.streamed_member)


def mark_stream(decision: Decision, member: str) -> Decision:
    """Note whose text alone was streamed, if anyone's, and whether the answer is another one."""
    if not member:
        return decision
    is_confirmed = member in decision.candidates[0].members
    return replace(decision, streamed_member=member, replaces_stream=not is_confirmed)
