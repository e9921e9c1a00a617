"""VotingService over the voting library."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ensemble.errors import InvalidRequestError
from ensemble.rpc.convert_question import decided_by_from_wire, question_from_wire, votes_from_wire
from ensemble.rpc.convert_vote import decision_to_wire
from ensemble.v1 import voting_service_pb2
from ensemble.voting.ballot import Abstention, AbstentionReason, Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.registry import get_strategy
from ensemble.voting.strategy import Question, Tally, VoteCalibration

if TYPE_CHECKING:
    from ensemble.rpc.methods import Context

MAX_PANEL = 256


class VotingServicer:
    """Decides votes in threads, so that a long count holds up neither health checks nor other votes' arrival."""

    def __init__(self, *, num_threads: int) -> None:
        self._threads = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="vote")

    async def Decide(  # noqa: N802 - gRPC's name
        self, request: voting_service_pb2.DecideRequest, context: Context
    ) -> voting_service_pb2.DecideResponse:
        """Decide."""
        question = question_from_wire(request)
        check_question(question)
        votes = votes_from_wire(request)
        decided_by = decided_by_from_wire(request)
        loop = asyncio.get_running_loop()
        decision = await loop.run_in_executor(self._threads, count, request.strategy, question, votes, decided_by)
        families = {voter.member: voter.family for voter in question.panel}
        return voting_service_pb2.DecideResponse(decision=decision_to_wire(decision, families))

    def close(self) -> None:
        """Start no further vote."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def count(
    strategy: str, question: Question, votes: tuple[Vote, ...], decided_by: DecidedBy | None = None, /
) -> Decision:
    """Count given votes and decide; panel members without a vote are late.

    What ended the vote is told from the votes unless it is given.

    Raises:
        InvalidRequestError: votes, panel and strategy do not fit together.
        QuorumError: no ballot was cast.
    """
    tally = get_strategy(strategy).open_tally(question)
    for vote in votes:
        tally = tally.add(vote)
    return tally.decide(decided_by or _decided_by(tally, votes))


def check_question(question: Question) -> None:
    """Raise InvalidRequestError for a panel that cannot vote."""
    members = [voter.member for voter in question.panel]
    if not members or len(members) > MAX_PANEL:
        raise InvalidRequestError("panel", f"it has {len(members)} members", f"send 1 to {MAX_PANEL}")
    for index, voter in enumerate(question.panel):
        if not voter.member or members.index(voter.member) != index:
            raise InvalidRequestError(
                f"panel[{index}].member", f"{voter.member!r} is empty or named twice", "name each once"
            )
        if not math.isfinite(voter.weight):
            raise InvalidRequestError(f"panel[{index}].weight", f"it is {voter.weight}", "send a finite number")
    if not 0.0 <= question.quorum.min_weight <= 1.0:
        raise InvalidRequestError("quorum.min_weight", f"it is {question.quorum.min_weight}", "send 0 to 1")
    if question.quorum.min_families < 1:
        raise InvalidRequestError("quorum.min_families", f"it is {question.quorum.min_families}", "send 1 or more")
    if question.calibration is not None:
        _check_calibration(question.calibration, num_choices=len(question.choices))


def _check_calibration(calibration: VoteCalibration, *, num_choices: int) -> None:
    if calibration.kappa is not None and not 0.0 < calibration.kappa < math.inf:
        raise InvalidRequestError("calibration.kappa", f"it is {calibration.kappa}", "send a number above 0")
    priors = calibration.log_priors
    if priors and (len(priors) != num_choices or not all(map(math.isfinite, priors))):
        problem = f"there are {len(priors)} for {num_choices} choices, or one is not finite"
        raise InvalidRequestError("calibration.log_priors", problem, "send one finite number a choice, or none")


def _decided_by(tally: Tally, votes: tuple[Vote, ...]) -> DecidedBy:
    reasons = {vote.reason for vote in votes if isinstance(vote, Abstention)}
    if tally.waiting or AbstentionReason.DEADLINE in reasons:
        return DecidedBy.DEADLINE
    return DecidedBy.LOSSLESS_QUORUM if AbstentionReason.CANCELLED in reasons else DecidedBy.ALL
