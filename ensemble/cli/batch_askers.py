"""Ways for a batch to ask an ensemble, and what they need to know."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ensemble.batch.items import BatchItem, repeatable
from ensemble.batch.run_batch import Asker, Schedule
from ensemble.cli.evaluation_run import check_members
from ensemble.cli.options import endpoint_tls
from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.generation import GenerationParameters
from ensemble.router.config import EnsembleConfig
from ensemble.router.request import ParameterOverrides, QuorumOverrides, VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.voting.decision import Decision

OpenAsker = Callable[[], AbstractAsyncContextManager[Asker]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Where the ensemble is, and how it is asked.

    With neither ``endpoint`` nor ``address`` the spec is served on this machine for as long as it takes; ``address`` is
    a Ray cluster's.
    """

    endpoint: str
    address: str
    stop_early: bool
    timeout_s: float
    schedule: Schedule

    @property
    def vote(self) -> VoteOptions:
        """Wait for everyone, or leave that to the spec, which may wait as well."""
        return VoteOptions(quorum=QuorumOverrides(stop_early=None if self.stop_early else False))


def parameters_of(item: BatchItem, ensemble: EnsembleConfig) -> ParameterOverrides:
    """Give a completion's own parameters, with a seed where it would be drawn at random."""
    return repeatable(item, GenerationParameters(**ensemble.generation.model_dump())).parameters


class EndpointAsker:
    """Asks a running endpoint, which must serve the spec's ensemble; see Asker."""

    def __init__(self, spec: Spec, ensemble: EnsembleConfig, options: BatchOptions) -> None:
        self._spec = spec
        self._ensemble = ensemble
        self._vote = options.vote
        self._client = AsyncEnsembleClient(options.endpoint, timeout_s=options.timeout_s, tls=endpoint_tls())

    async def __aenter__(self) -> Self:
        try:
            await check_members(self._client, self._spec, self._ensemble)
            await _check_strategies(self._client, self._ensemble)
        except BaseException:
            await self._client.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ask(self, item: BatchItem) -> Decision:
        """Have it voted on."""
        name, vote = self._ensemble.name, self._vote
        if item.choices:
            return await self._client.classify(item.prompt, item.choices, ensemble=name, options=vote)
        parameters = parameters_of(item, self._ensemble)
        return await self._client.generate(item.prompt, ensemble=name, parameters=parameters, options=vote)


async def _check_strategies(client: AsyncEnsembleClient, ensemble: EnsembleConfig) -> None:
    """Refuse an endpoint that decides by other strategies; of quorum, parameters and calibration it tells nothing."""
    summary = (await client.get_ensemble(ensemble.name)).ensemble
    served = (summary.classify_strategy, summary.generate_strategy)
    wanted = (ensemble.classify_strategy, ensemble.generate_strategy)
    if served != wanted:
        raise ConfigError(
            "--endpoint",
            f"its ensemble {ensemble.name!r} decides by {' and '.join(served)}, the spec's by {' and '.join(wanted)}",
            "serve this spec there, or leave --endpoint out",
        )
