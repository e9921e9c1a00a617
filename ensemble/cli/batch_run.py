"""Puts a batch to an ensemble: a running endpoint's, or one of its own on this machine or on a cluster."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console

from ensemble.batch.item_source import Shards
from ensemble.batch.items import BatchItem, repeatable
from ensemble.batch.run_batch import Schedule, run_batch
from ensemble.batch.shard_store import ShardStore
from ensemble.cli.evaluation_run import check_members
from ensemble.cli.item_progress import show_progress
from ensemble.cli.options import endpoint_tls
from ensemble.cli.serve import private_temp_dir, running
from ensemble.config import Spec
from ensemble.errors import ConfigError, MemberUnavailableError
from ensemble.generation import GenerationParameters
from ensemble.router.config import EnsembleConfig
from ensemble.router.request import QuorumOverrides, VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.voting.decision import Decision

PICK_TIMEOUT_S = 5.0
"""For finding a router: a replica that is being replaced is not there for a while, and the item is asked again."""

FindAddress = Callable[[], Awaitable[str]]
"""Finds where the ensemble answers now; asked for every call, since a replica that died is replaced elsewhere."""


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


class BatchAsker:
    """Asks an ensemble over gRPC; see Asker."""

    def __init__(self, find_address: FindAddress, ensemble: EnsembleConfig, options: BatchOptions) -> None:
        self._find_address = find_address
        self._ensemble = ensemble.name
        self._defaults = GenerationParameters(**ensemble.generation.model_dump())
        self._timeout_s = options.timeout_s
        self._tls = endpoint_tls() if options.endpoint else None
        # False waits for everyone; None leaves it to the spec, which may wait as well.
        self._vote = VoteOptions(quorum=QuorumOverrides(stop_early=None if options.stop_early else False))
        self._client_by_address: dict[str, AsyncEnsembleClient] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._client_by_address.values():
            await client.close()

    async def ask(self, item: BatchItem) -> Decision:
        """Have it voted on."""
        client = await self._client()
        if item.choices:
            return await client.classify(item.prompt, item.choices, ensemble=self._ensemble, options=self._vote)
        parameters = repeatable(item, self._defaults).parameters
        return await client.generate(item.prompt, ensemble=self._ensemble, parameters=parameters, options=self._vote)

    async def _client(self) -> AsyncEnsembleClient:
        try:
            async with asyncio.timeout(PICK_TIMEOUT_S):
                address = await self._find_address()
        except TimeoutError as error:
            raise MemberUnavailableError("router", f"no replica was found within {PICK_TIMEOUT_S:g} s") from error
        if address not in self._client_by_address:
            self._client_by_address[address] = AsyncEnsembleClient(address, timeout_s=self._timeout_s, tls=self._tls)
        return self._client_by_address[address]


def run_items(spec: Spec, ensemble: EnsembleConfig, shards: Shards, store: ShardStore, options: BatchOptions) -> float:
    """Have every item voted on that is not stored yet, and show how that goes; gives the seconds that asking took.

    Raises:
        EnsembleError: the ensemble cannot be served or asked, or the endpoint has other members.
    """
    # stdout is for the report.
    console = Console(stderr=True, highlight=False)
    manifest = store.manifest
    num_done = sum(map(manifest.num_items_of, store.stored()))

    async def ask(find_address: FindAddress, on_answered: Callable[[], None]) -> None:
        if options.endpoint:
            tls = endpoint_tls()
            async with AsyncEnsembleClient(options.endpoint, timeout_s=options.timeout_s, tls=tls) as client:
                await check_members(client, spec, ensemble)
        async with BatchAsker(find_address, ensemble, options) as asker:
            await run_batch(shards, store, asker, schedule=options.schedule, on_answered=on_answered)

    with ExitStack() as stack:
        find_address = stack.enter_context(_ensemble_there(spec, ensemble, store, options, console))
        hear = stack.enter_context(show_progress(console, num_items=manifest.num_items, num_done=num_done))
        started_s = time.monotonic()
        asyncio.run(ask(find_address, hear))
        return time.monotonic() - started_s


def own_spec(spec: Spec, ensemble: EnsembleConfig, store: ShardStore) -> Spec:
    """Reduce a spec to one ensemble, under a name of the batch's own and on a free port of the router's node.

    A batch that goes on has the same spec, so it takes over what a killed one left running. Feedback is left out: it
    would move weights while the batch is under way.
    """
    digest = hashlib.sha256(f"{store.manifest.run_id}\n{store.output}".encode()).hexdigest()
    needed = {*ensemble.members, *ensemble.assistants.model_dump(exclude_none=True).values()}
    return spec.model_copy(
        update={
            "name": f"batch-{digest[:16]}",
            "members": tuple(member for member in spec.members if member.name in needed),
            "ensembles": (ensemble.model_copy(update={"feedback": None}),),
            "router": spec.router.model_copy(update={"host": "", "port": 0, "tls": None}),
        }
    )


@contextmanager
def _ensemble_there(
    spec: Spec, ensemble: EnsembleConfig, store: ShardStore, options: BatchOptions, console: Console
) -> Iterator[FindAddress]:
    """Give what finds the ensemble, which an error or the end takes away again where it was started for this run."""
    if options.endpoint:

        async def find_endpoint() -> str:
            return options.endpoint

        yield find_endpoint
        return
    from ensemble.serving.cluster import router_picker  # noqa: PLC0415 - it brings Ray along

    served = own_spec(spec, ensemble, store)
    with ExitStack() as stack:
        temp_dir = None if options.address else stack.enter_context(private_temp_dir())
        stack.enter_context(running(served, console, address=options.address, temp_dir=temp_dir))
        if options.address:
            stack.callback(_take_away, served.name, console)
        picker = router_picker(served.name)

        async def find_router() -> str:
            return (await picker.pick()).address

        yield find_router


def _take_away(application: str, console: Console) -> None:
    """Free the cluster; the answers are there, whether that works or not."""
    from ensemble.serving.cluster import remove_application  # noqa: PLC0415 - as above

    try:
        remove_application(application)
    except ConfigError as error:
        console.print(f"{error}", style="yellow", markup=False, soft_wrap=True)
