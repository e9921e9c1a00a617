"""Throughput of `ensemble batch` beside that of its members' engines, driven directly with the same items.

Directly, every engine runs in a process of its own, as in a batch, all at the same time, with as many items under way;
the slowest says how long that takes. Rounds are short and interleaved, so that a drift of the machine meets both alike;
starting is counted on neither side. The batch has engines of its own on a cluster, or with --endpoint asks one that
runs meanwhile. `make demo` makes the checkpoints of deploy/specs/laptop.yaml; `python examples/tweets.py` makes the
items, and the small classifiers of deploy/specs/tweets.yaml. The last line is `RESULT batch ...`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import ray
from rich.console import Console

from ensemble.batch.item_source import ItemSource
from ensemble.batch.items import BatchItem
from ensemble.batch.shard_store import FOLDER_SUFFIX
from ensemble.cli.evaluation_run import private_spec
from ensemble.cli.serve import private_temp_dir, running
from ensemble.config import MemberConfig, Spec
from ensemble.engines.engine import Engine
from ensemble.engines.load import build_engine
from ensemble.environment import cache_dir
from ensemble.files.location import Location
from ensemble.generation import GenerationParameters, GenerationRequest, ScoringRequest
from ensemble.router.validation import pick_ensemble
from ensemble.serving.cluster import ray_cluster
from ensemble.spec_file import load_spec

START_TIMEOUT_S = 600.0
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How items are asked: so many at a time."""

    concurrency: int
    defaults: GenerationParameters


async def _ask(engine: Engine, item: BatchItem, defaults: GenerationParameters) -> None:
    if item.choices:
        await engine.score(ScoringRequest(request_id=item.item_id, prompt=item.prompt, choices=item.choices))
        return
    parameters = item.parameters.applied_to(defaults)
    request = GenerationRequest(request_id=item.item_id, prompt=item.prompt, parameters=parameters)
    async for _ in engine.generate(request):
        pass


async def _ask_in_turn(engine: Engine, items: Iterator[BatchItem], defaults: GenerationParameters) -> None:
    for item in items:
        await _ask(engine, item, defaults)


async def _serve_rounds(member: MemberConfig, load: Load, started: Barrier, told: Connection) -> None:
    engine = build_engine(
        member.engine,
        checkpoint=member.checkpoint,
        member=member.name,
        prompt_format=member.prompt,
        cache_dir=cache_dir() / "checkpoints",
    )
    await engine.start()
    await asyncio.to_thread(started.wait, START_TIMEOUT_S)
    while (items := await asyncio.to_thread(told.recv)) is not None:
        started_s, left = time.perf_counter(), iter(items)
        async with asyncio.TaskGroup() as group:
            for _ in range(load.concurrency):
                group.create_task(_ask_in_turn(engine, left, load.defaults))
        told.send(time.perf_counter() - started_s)
    await engine.close()


def _run_member(member: MemberConfig, load: Load, started: Barrier, told: Connection) -> None:
    asyncio.run(_serve_rounds(member, load, started, told))


@contextmanager
def engines_running(members: Sequence[MemberConfig], load: Load) -> Iterator[Callable[[Sequence[BatchItem]], float]]:
    """Start every engine in a process of its own; gives what measures items a second of all together."""
    context = multiprocessing.get_context("spawn")
    started = context.Barrier(len(members) + 1)
    pipes = [context.Pipe() for _ in members]
    processes = [
        context.Process(target=_run_member, args=(member, load, started, theirs))
        for member, (_, theirs) in zip(members, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    started.wait(START_TIMEOUT_S)

    def measure(items: Sequence[BatchItem]) -> float:
        for ours, _ in pipes:
            ours.send(items)
        slowest_s: float = max(ours.recv() for ours, _ in pipes)
        return len(items) / slowest_s

    try:
        yield measure
    finally:
        for ours, _ in pipes:
            ours.send(None)
        for process in processes:
            process.join()


def measure_batch(spec: Path, items: Sequence[BatchItem], folder: Path, *options: str) -> float:
    """Give items a second of the command."""
    data, output = (folder / f"{name}-{time.monotonic_ns()}.jsonl" for name in ("in", "out"))
    rows = ({"id": one.item_id, "prompt": one.prompt, **_rest(one)} for one in items)
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    command = [sys.executable, "-m", "ensemble.cli", "batch", str(spec), str(data), str(output), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=2 * START_TIMEOUT_S)  # noqa: S603
    report = json.loads(Path(f"{output}{FOLDER_SUFFIX}", "report.json").read_text("utf-8"))
    return float(report["this_run"]["items_per_s"])


@contextmanager
def batch_place(served: Spec, *, is_endpoint: bool) -> Iterator[tuple[str, str]]:
    """Start what the batch runs on; gives the option that names it."""
    with private_temp_dir() as temp_dir:
        if is_endpoint:
            with running(served, Console(stderr=True), temp_dir=temp_dir):
                yield "--endpoint", f"127.0.0.1:{served.router.port}"
        else:
            with ray_cluster("", temp_dir=temp_dir):
                yield "--address", ray.get_runtime_context().gcs_address


def _rest(item: BatchItem) -> dict[str, object]:
    if item.choices:
        return {"choices": item.choices}
    return {name: value for name, value in asdict(item.parameters).items() if value}


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=Path, default=ROOT / "deploy" / "specs" / "laptop.yaml")
    parser.add_argument("--data", type=Path, default=cache_dir() / "tweets" / "test.jsonl")
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--endpoint", action="store_true", help="ask a running endpoint")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = _parse_arguments()
    spec = load_spec(arguments.spec)
    ensemble = pick_ensemble("", {one.name: one for one in spec.ensembles})
    members = [member for member in spec.members if member.name in ensemble.members]
    source = ItemSource(Location.of(str(arguments.data)), spec.limits)
    items = list(islice((one for one in source.read() if isinstance(one, BatchItem)), arguments.items))
    load = Load(concurrency=arguments.concurrency, defaults=GenerationParameters(**ensemble.generation.model_dump()))
    served = spec.model_copy(update={"router": private_spec(spec, ensemble).router})
    shares: list[float] = []
    rates: list[tuple[float, float]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = stack.enter_context(batch_place(served, is_endpoint=arguments.endpoint))
        measure_engines = stack.enter_context(engines_running(members, load))
        for number in range(arguments.rounds):
            part = items[number :: arguments.rounds]
            engines = measure_engines(part)
            options = (*place, "--concurrency", str(load.concurrency))
            batch = measure_batch(arguments.spec, part, folder, *options)
            shares.append(batch / engines)
            rates.append((batch, engines))
            print(f"round {number + 1}: batch {batch:.2f} items/s, engines {engines:.2f} items/s", flush=True)
    batch_rate, engines_rate = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"RESULT batch share_of_engines={statistics.median(shares):.2f} items_per_s={batch_rate:.2f} "
        f"engines_items_per_s={engines_rate:.2f} items={len(items)} members={len(members)} "
        f"concurrency={load.concurrency} by={place[0].strip('-')}"
    )


if __name__ == "__main__":
    main()
