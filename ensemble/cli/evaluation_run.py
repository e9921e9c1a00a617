"""Gets an evaluation's votes: serves the spec or uses an endpoint, asks every item, shows how it goes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

from ensemble.cli.item_progress import show_progress
from ensemble.cli.one_ensemble import spec_of_one
from ensemble.cli.options import endpoint_tls
from ensemble.cli.serve import private_temp_dir, running
from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.router.config import EnsembleConfig, QuorumConfig
from ensemble.router.request import QuorumOverrides, VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.voting.ballot import Abstention, Ballot, Vote

if TYPE_CHECKING:
    from ensemble.calibration.ballot_store import BallotStore
    from ensemble.calibration.item_file import ItemSet
    from ensemble.calibration.items import LabelledItem

_EVERYONE = QuorumOverrides(min_weight=0.0, min_families=1, stop_early=False)
# These two count ballots as they are; what they decide is of no matter here.
_CHOICE_OPTIONS = VoteOptions(strategy="majority", quorum=_EVERYONE, ignore_calibration=True)
# One member may be asked alone for what is missing, and its ballot must be the one it would have been among all.
_TEXT_OPTIONS = VoteOptions(strategy="mbr", quorum=_EVERYONE, ignore_calibration=True, include_logprobs=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOptions:
    """How items are asked. An empty ``endpoint`` serves the spec on this machine for as long as it takes."""

    endpoint: str
    concurrency: int
    timeout_s: float


class GrpcAsker:
    """Asks an ensemble of an endpoint, waiting for each member that is asked."""

    def __init__(self, client: AsyncEnsembleClient, ensemble: str) -> None:
        self._client = client
        self._ensemble = ensemble

    async def ask(self, item: LabelledItem, members: tuple[str, ...]) -> AsyncGenerator[Vote]:
        """See Asker."""
        options = replace(_CHOICE_OPTIONS if item.choices else _TEXT_OPTIONS, panel=members)
        events = (
            self._client.stream_classify(item.prompt, item.choices, ensemble=self._ensemble, options=options)
            if item.choices
            else self._client.stream_generate(item.prompt, ensemble=self._ensemble, options=options)
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Ballot | Abstention):
                    yield event


def private_spec(spec: Spec, ensemble: EnsembleConfig) -> Spec:
    """Reduce a spec to one ensemble whose members all vote on everything, on a port of its own.

    What an ensemble does with ballots (strategy, calibration, asking in stages) is left out: here they are gathered.
    """
    bare = EnsembleConfig(
        name=ensemble.name,
        members=ensemble.members,
        answer=ensemble.answer,
        generation=ensemble.generation,
        quorum=QuorumConfig(min_weight=0.0, stop_early=False),
    )
    return spec_of_one(spec, bare, host="127.0.0.1", port=_free_port())


def gather_votes(
    spec: Spec, ensemble: EnsembleConfig, item_sets: Sequence[ItemSet], *, store: BallotStore, options: AskOptions
) -> int:
    """Ask whatever is not stored yet; gives how many items that were.

    Raises:
        EnsembleError: the ensemble cannot be served or asked, or the endpoint has other members.
    """
    # stdout is for the report.
    console = Console(stderr=True, highlight=False)
    with ExitStack() as stack:
        address = options.endpoint
        if not address:
            served = private_spec(spec, ensemble)
            temp_dir = stack.enter_context(private_temp_dir())
            stack.enter_context(running(served, console, temp_dir=temp_dir))
            address = f"127.0.0.1:{served.router.port}"
        num_items = sum(len(one.items) for one in item_sets)
        on_stored = stack.enter_context(show_progress(console, num_items=num_items, num_done=store.num_stored))
        return asyncio.run(_ask(address, spec, ensemble, item_sets, store=store, options=options, on_stored=on_stored))


async def _ask(  # noqa: PLR0913 - what `gather_votes` was given, and two more
    address: str,
    spec: Spec,
    ensemble: EnsembleConfig,
    item_sets: Sequence[ItemSet],
    *,
    store: BallotStore,
    options: AskOptions,
    on_stored: Callable[[], None],
) -> int:
    from ensemble.calibration.ask_all import Schedule, ask_all  # noqa: PLC0415 - see the command

    tls = endpoint_tls() if options.endpoint else None
    async with AsyncEnsembleClient(address, timeout_s=options.timeout_s, tls=tls) as client:
        if options.endpoint:
            await check_members(client, spec, ensemble)
        asker = GrpcAsker(client, ensemble.name)
        schedule = Schedule(concurrency=options.concurrency)
        return await ask_all(item_sets, store, asker, schedule=schedule, on_stored=on_stored)


async def check_members(client: AsyncEnsembleClient, spec: Spec, ensemble: EnsembleConfig) -> None:
    """Check that an endpoint serves the spec's members.

    Raises:
        ConfigError: it serves others.
    """
    report = await client.get_ensemble(ensemble.name)
    member_by_name = {member.name: member for member in spec.members}
    wanted = {name: member_by_name[name].family for name in ensemble.members}
    served = {voter.member: voter.family for voter in report.ensemble.members}
    if served != wanted:
        raise ConfigError(
            "--endpoint",
            f"its ensemble {ensemble.name!r} has {_describe(served)}, but the spec's has {_describe(wanted)}",
            "serve this spec there, or leave --endpoint out",
        )
    for state in report.members:
        checkpoint = member_by_name[state.member].checkpoint
        if checkpoint and checkpoint.rsplit("/", 1)[-1] != state.checkpoint.rsplit("/", 1)[-1]:
            raise ConfigError(
                "--endpoint",
                f"its member {state.member} runs {state.checkpoint}, but the spec's runs {checkpoint}",
                "serve this spec there, or leave --endpoint out",
            )


def _describe(family_by_member: dict[str, str]) -> str:
    return ", ".join(f"{member} ({family})" for member, family in sorted(family_by_member.items()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
