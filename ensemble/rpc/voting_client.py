"""Lets the voting deployment decide, over gRPC."""

from __future__ import annotations

import grpc

from ensemble.errors import EndpointError, EnsembleError, MemberUnavailableError, VotingUnavailableError
from ensemble.rpc.channels import Peer
from ensemble.rpc.convert_question import decide_request_to_wire
from ensemble.rpc.convert_vote import decision_from_wire
from ensemble.rpc.replica_call import ReplicaCaller
from ensemble.rpc.secret import SECRET_KEY
from ensemble.rpc.status import error_from_status
from ensemble.v1.voting_service_pb2 import DecideResponse
from ensemble.voting.ballot import Vote
from ensemble.voting.decision import DecidedBy, Decision
from ensemble.voting.strategy import Question


class GrpcVotingClient:
    """A VotingClient whose replicas serve VotingService."""

    def __init__(self, caller: ReplicaCaller, *, secret: str) -> None:
        self._caller = caller
        self._metadata = ((SECRET_KEY, secret),)

    async def decide(
        self, strategy: str, question: Question, votes: tuple[Vote, ...], *, decided_by: DecidedBy, timeout_s: float
    ) -> Decision:
        """Count ``votes``; panel members without one are late."""
        wire = decide_request_to_wire(strategy, question, votes, decided_by)

        async def attempt(peer: Peer, left_s: float) -> DecideResponse:
            return await peer.voting.Decide(wire, timeout=left_s, metadata=self._metadata)

        try:
            response = await self._caller.call(attempt, timeout_s=timeout_s)
        except MemberUnavailableError as error:
            raise VotingUnavailableError(error.problem) from error
        except grpc.aio.AioRpcError as failure:
            raise _error(failure) from failure
        try:
            return decision_from_wire(response.decision)
        except EndpointError as error:
            raise VotingUnavailableError(error.problem) from error


def _error(failure: grpc.aio.AioRpcError) -> EnsembleError:
    error = error_from_status(failure, "the voting service")
    return VotingUnavailableError(error.problem) if isinstance(error, EndpointError) else error
