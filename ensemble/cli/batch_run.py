"""Puts a batch to an ensemble: a running endpoint's, or one of its own on this machine or on a cluster."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from rich.console import Console

from ensemble.batch.item_source import Shards
from ensemble.batch.run_batch import run_batch
from ensemble.batch.shard_store import ShardStore
from ensemble.cli.batch_askers import BatchOptions, EndpointAsker, OpenAsker
from ensemble.cli.item_progress import show_progress
from ensemble.cli.one_ensemble import spec_of_one
from ensemble.cli.serve import private_temp_dir, running
from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.router.config import EnsembleConfig


def run_items(spec: Spec, ensemble: EnsembleConfig, shards: Shards, store: ShardStore, options: BatchOptions) -> float:
    """Have every item voted on that is not stored yet, and show how that goes; gives the seconds that asking took.

    Raises:
        EnsembleError: the ensemble cannot be served or asked, or the endpoint has other members.
    """
    # stdout is for the report.
    console = Console(stderr=True, highlight=False)
    manifest = store.manifest
    num_done = sum(map(manifest.num_items_of, store.stored()))

    async def ask(open_asker: OpenAsker, on_answered: Callable[[], None]) -> None:
        async with open_asker() as asker:
            await run_batch(shards, store, asker, schedule=options.schedule, on_answered=on_answered)

    with ExitStack() as stack:
        open_asker = stack.enter_context(_ensemble_there(spec, ensemble, store, options, console))
        hear = stack.enter_context(show_progress(console, num_items=manifest.num_items, num_done=num_done))
        started_s = time.monotonic()
        asyncio.run(ask(open_asker, hear))
        return time.monotonic() - started_s


def own_spec(spec: Spec, ensemble: EnsembleConfig, store: ShardStore) -> Spec:
    """Reduce a spec to one ensemble, under a name of the batch's own and on a free port of the router's node.

    A batch that goes on has the same spec, so it takes over what a killed one left running. Feedback is left out: it
    would move weights while the batch is under way.
    """
    digest = hashlib.sha256(f"{store.manifest.run_id}\n{store.output}".encode()).hexdigest()
    served = spec_of_one(spec, ensemble.model_copy(update={"feedback": None}), host="", port=0)
    return served.model_copy(update={"name": f"batch-{digest[:16]}"})


@contextmanager
def _ensemble_there(
    spec: Spec, ensemble: EnsembleConfig, store: ShardStore, options: BatchOptions, console: Console
) -> Iterator[OpenAsker]:
    """Give what asks the ensemble; an error or the end takes away again what was started for this run."""
    if options.endpoint:
        yield partial(EndpointAsker, spec, ensemble, options)
        return
    from ensemble.cli.own_engines import OwnEnginesAsker  # noqa: PLC0415 - it brings Ray along

    served = own_spec(spec, ensemble, store)
    with ExitStack() as stack:
        temp_dir = None if options.address else stack.enter_context(private_temp_dir())
        stack.enter_context(running(served, console, address=options.address, temp_dir=temp_dir))
        if options.address:
            stack.callback(_take_away, served.name, console)
        asker = OwnEnginesAsker(served, options)
        yield lambda: asker


def _take_away(application: str, console: Console) -> None:
    """Free the cluster; the answers are there, whether that works or not."""
    from ensemble.serving.cluster import remove_application  # noqa: PLC0415 - as above

    try:
        remove_application(application)
    except ConfigError as error:
        console.print(f"{error}", style="yellow", markup=False, soft_wrap=True)
