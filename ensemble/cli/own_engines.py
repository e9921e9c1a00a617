"""Asks the engines that a batch has to itself: the vote is held in the batch's own process."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from ensemble.batch.items import BatchItem
from ensemble.cli.batch_askers import BatchOptions, parameters_of
from ensemble.config import Spec
from ensemble.errors import MemberTimeoutError
from ensemble.replica_servers import VOTING, build_clients, build_ensembles, member_deployment
from ensemble.router.ensemble_router import EnsembleRouter
from ensemble.router.ports import MemberClient, ReplicaPicker
from ensemble.router.request import ClassifyRequest, GenerateRequest
from ensemble.rpc.block_client import BlockMemberClient
from ensemble.rpc.channels import ChannelCache
from ensemble.rpc.member_client import GrpcMemberClient
from ensemble.serving.cluster import application_secret, replica_pickers
from ensemble.spec_file import load_calibrations
from ensemble.voting.decision import Decision

BLOCKS_UNDER_WAY = 4
"""So that members have the next blocks while the votes of one are counted."""
LARGEST_BLOCK = 64
"""More saves next to nothing, and long prompts must fit a message together."""


class OwnEnginesAsker:
    """Asks the members' replicas directly, by the router's own rules; see Asker.

    A hop less than through the endpoint, and scorings share calls: with small models that is most of the time.
    """

    def __init__(self, spec: Spec, options: BatchOptions) -> None:
        """Prepare to ask the application ``spec.name``, which runs on the cluster that this process is connected to.

        Blocks: call it before the loop runs.
        """
        (self._ensemble,) = spec.ensembles
        self._vote = options.vote
        self._timeout_s = options.timeout_s
        self._options = options
        self._spec = spec
        self._secret = application_secret(spec.name)
        self._calibrations = {name: one.to_voting() for name, one in load_calibrations(spec).items()}
        deployments = [VOTING, *(member_deployment(member.name) for member in spec.members)]
        self._pickers: Mapping[str, ReplicaPicker] = replica_pickers(spec.name, deployments)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        channels = ChannelCache()
        self._stack.push_async_callback(channels.close)
        clients, voting = build_clients(self._spec, self._secret, self._pickers, channels)
        members = {name: await self._open_member(client) for name, client in clients.items()}
        concurrency = self._options.schedule.concurrency
        self._router = EnsembleRouter(
            build_ensembles(self._spec, self._calibrations),
            members,
            voting,
            limits=self._spec.limits.model_copy(update={"max_concurrent": concurrency}),
            observer=_Unobserved(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def ask(self, item: BatchItem) -> Decision:
        """Have it voted on."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._decide(item, uuid.uuid4().hex)
        except TimeoutError as error:
            raise MemberTimeoutError(self._ensemble.name, f"it took more than {self._timeout_s:g} s") from error

    async def _decide(self, item: BatchItem, request_id: str) -> Decision:
        name, vote, timeout_s = self._ensemble.name, self._vote, self._timeout_s
        if item.choices:
            question = ClassifyRequest(
                request_id=request_id, ensemble=name, prompt=item.prompt, choices=item.choices, options=vote
            )
            return await self._router.classify(question, timeout_s=timeout_s)
        parameters = parameters_of(item, self._ensemble)
        prompt = GenerateRequest(
            request_id=request_id, ensemble=name, prompt=item.prompt, parameters=parameters, options=vote
        )
        return await self._router.generate(prompt, timeout_s=timeout_s)

    async def _open_member(self, client: GrpcMemberClient) -> MemberClient:
        # Who may be stopped early has a call of its own, which stops the engine, too.
        if self._vote.quorum.stop_early is None:
            return client
        max_block = min(max(1, self._options.schedule.concurrency // BLOCKS_UNDER_WAY), LARGEST_BLOCK)
        return await self._stack.enter_async_context(BlockMemberClient(client, max_block=max_block))


class _Unobserved:
    """An Observer for votes whose figures the batch's report has."""

    def observe_decision(self, ensemble: str, decision: Decision, *, latency_s: float) -> None:
        """Leave it to the report."""

    def observe_failure(self, ensemble: str, error: str) -> None:
        """Leave it to whoever asks again."""
