"""A served vote among compressed members of different bases next to the dense members alone.

    python benchmarks/served_vote.py --items FILE.jsonl [--items ...] [--limit 300]

Makes the checkpoints that the spec (deploy/specs/compressed.yaml) finds in the cache by the recipes of the same ends,
serves the spec with `ensemble serve`, and asks every item over gRPC in every way, one way after another before the next
item: each member alone, then each ensemble's vote. Accuracies are compared with the best dense member's by McNemar's
exact test; the best is picked on the same items, which favours it. Memory is what the replicas of a way's members have
resident. The last line is `RESULT served_vote ...`.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import yaml

from ensemble.calibration.item_file import check_item_files, read_item_file
from ensemble.calibration.statistics import accuracy_interval, mcnemar
from ensemble.cli.compress import run_recipes
from ensemble.environment import cache_dir
from ensemble.replica_servers import member_deployment
from ensemble.router.request import QuorumOverrides, VoteOptions
from ensemble.rpc.client import EnsembleClient
from ensemble.spec_file import load_spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ensemble.calibration.items import LabelledItem
    from ensemble.config import Spec

ROOT = Path(__file__).parent.parent
CACHE_PREFIX = "cache:compressed/"
START_TIMEOUT_S = 300.0
END_TIMEOUT_S = 120.0
CALL_TIMEOUT_S = 60.0
MIB = 2**20


@dataclass(slots=True, kw_only=True)
class Way:
    """A way to answer: some members of one of the spec's ensembles, and what came of it."""

    name: str
    ensemble: str
    panel: tuple[str, ...]
    is_dense: bool
    is_right: list[bool] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    def ask(self, client: EnsembleClient, item: LabelledItem) -> None:
        """Ask one item."""
        options = VoteOptions(panel=self.panel, quorum=QuorumOverrides(min_families=1))
        started_s = time.perf_counter()
        decision = client.classify(item.prompt, item.choices, ensemble=self.ensemble, options=options)
        self.latencies_s.append(time.perf_counter() - started_s)
        self.is_right.append(item.answer is not None and decision.answer == item.choices[item.answer])

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return statistics.mean(self.is_right)

    @property
    def p50_ms(self) -> float:
        """The median time to an answer, as the client has it."""
        return statistics.median(self.latencies_s) * 1_000


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=Path, action="append", required=True, help="labelled items with choices")
    parser.add_argument("--limit", type=int, default=300, help="items of each file, evenly from all of it")
    parser.add_argument("--spec", type=Path, default=ROOT / "deploy" / "specs" / "compressed.yaml")
    return parser.parse_args()


def _make_checkpoints(spec: Spec) -> None:
    """Make what the spec finds in the cache: FAMILY-RECIPE of the family's dense member, by the recipe of that name."""
    source_by_family = {
        member.family: member.checkpoint for member in spec.members if not _is_compressed(member.checkpoint)
    }
    for member in spec.members:
        folder = Path(member.checkpoint)
        if _is_compressed(member.checkpoint) and not folder.exists():
            recipe = ROOT / "deploy" / "recipes" / f"{folder.name.rpartition('-')[2]}.yaml"
            print(f"making {folder.name} by {recipe.name}", flush=True)
            run_recipes(
                source_by_family[member.family],
                {folder: recipe},
                calibration=(),
                on_progress=lambda _standing: None,
            )


def _is_compressed(checkpoint: str) -> bool:
    return checkpoint.startswith(str(cache_dir() / "compressed"))


def _list_ways(spec: Spec) -> list[Way]:
    """List every member alone, in the first ensemble that has it, then every ensemble's vote."""
    checkpoint = {member.name: member.checkpoint for member in spec.members}
    home = {member: one.name for one in reversed(spec.ensembles) for member in one.members}
    alone = [
        Way(
            name=member.name,
            ensemble=home[member.name],
            panel=(member.name,),
            is_dense=not _is_compressed(checkpoint[member.name]),
        )
        for member in spec.members
    ]
    votes = [
        Way(
            name=f"vote: {' + '.join(one.members)}",
            ensemble=one.name,
            panel=tuple(one.members),
            is_dense=not any(_is_compressed(checkpoint[member]) for member in one.members),
        )
        for one in spec.ensembles
    ]
    return [*alone, *votes]


def _read_items(files: Sequence[Path], limit: int) -> list[LabelledItem]:
    sets = check_item_files([read_item_file(file) for file in files])
    items: list[LabelledItem] = []
    for one in sets:
        step = max(1.0, len(one.items) / limit)
        items += [one.items[int(number * step)] for number in range(min(limit, len(one.items)))]
    return items


@contextmanager
def _serving(spec: Path) -> Iterator[psutil.Process]:
    """Run `ensemble serve` until it is up; end it and all that it started afterwards."""
    with tempfile.NamedTemporaryFile(prefix="served-vote-", suffix=".log") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "ensemble.cli", "serve", str(spec)], stdout=log, stderr=subprocess.STDOUT
        )
        served = psutil.Process(process.pid)
        try:
            until_s = time.monotonic() + START_TIMEOUT_S
            while b"Ctrl-C" not in (said := Path(log.name).read_bytes()):
                if process.poll() is not None or time.monotonic() > until_s:
                    raise SystemExit(said.decode(errors="replace"))
                time.sleep(0.5)
            yield served
        finally:
            process.terminate()
            process.wait(END_TIMEOUT_S)


def _resident_bytes(served: psutil.Process, member: str) -> int:
    """Add up what a member's replicas have resident; Ray names a replica's process by its deployment."""
    replicas = [
        process
        for process in served.children(recursive=True)
        if " ".join(process.cmdline()).strip().endswith(f":{member_deployment(member)}")
    ]
    if not replicas:
        raise SystemExit(f"no process of member {member} was found")
    return sum(process.memory_info().rss for process in replicas)


def _draw_table(ways: Sequence[Way], bytes_by_member: dict[str, int]) -> None:
    best = max((way for way in ways if way.is_dense and len(way.panel) == 1), key=lambda way: way.accuracy)
    rows = [("way", "accuracy", "95 %", "p50 (ms)", "memory (MiB)", "only it", "only best", "p (McNemar)")]
    for way in ways:
        interval = accuracy_interval(sum(way.is_right), len(way.is_right))
        test = mcnemar(way.is_right, best.is_right)
        against = (
            ("best dense", "", "") if way is best else (str(test.num_gained), str(test.num_lost), f"{test.p_value:.2g}")
        )
        memory = sum(bytes_by_member[member] for member in way.panel) / MIB
        spread = f"{interval.low:.3f}-{interval.high:.3f}"
        rows.append((way.name, f"{way.accuracy:.3f}", spread, f"{way.p50_ms:.0f}", f"{memory:.0f}", *against))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    vote = next(way for way in ways if len(way.panel) > 1 and not way.is_dense)
    p_value = mcnemar(vote.is_right, best.is_right).p_value
    memory = sum(bytes_by_member[member] for member in vote.panel) / bytes_by_member[best.panel[0]]
    print(
        f"RESULT served_vote items={len(vote.is_right)} vote={vote.accuracy:.3f} best_dense={best.accuracy:.3f} "
        f"p={p_value:.2g} latency_ratio={vote.p50_ms / best.p50_ms:.2f} memory_ratio={memory:.2f}"
    )


def main() -> None:
    """Make, serve, ask and print."""
    arguments = _parse_arguments()
    spec = load_spec(arguments.spec)
    items = _read_items(arguments.items, arguments.limit)
    _make_checkpoints(spec)
    ways = _list_ways(spec)
    with tempfile.TemporaryDirectory(prefix="ens-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        document = yaml.safe_load(arguments.spec.read_text("utf-8"))
        own = Path(folder) / "spec.yaml"
        own.write_text(json.dumps({**document, "router": {"port": port}}), "utf-8")
        probe.close()
        with _serving(own) as served, EnsembleClient(f"127.0.0.1:{port}", timeout_s=CALL_TIMEOUT_S) as client:
            for way in ways:
                way.ask(client, items[0])  # The first answer of a way warms it up.
                way.is_right.clear()
                way.latencies_s.clear()
            for number, item in enumerate(items):
                for way in ways:
                    way.ask(client, item)
                if number % 50 == 49:
                    print(f"{number + 1} of {len(items)} items", flush=True)
            bytes_by_member = {member.name: _resident_bytes(served, member.name) for member in spec.members}
    _draw_table(ways, bytes_by_member)


if __name__ == "__main__":
    main()
