"""A batch as a Ray job on two nodes, killed in every way and resumed: every id once, and the bytes of a quiet run.

The batch runs once in peace; then again, while in turn its driver, the second node, and the head with all it knows get
SIGKILL, and it is submitted again each time. The spec's checkpoints must be there; `python examples/tweets.py` makes
those of the default spec, and the items. The last line is `RESULT batch_kills ...`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient
from two_nodes import POLL_S, UP_TIMEOUT_S, TwoNodes, two_nodes

from ensemble.batch.shard_store import FOLDER_SUFFIX
from ensemble.environment import cache_dir

JOB_TIMEOUT_S = 3_000.0
KILLS = ("driver", "worker", "head")
ROOT = Path(__file__).resolve().parent.parent
SUBMIT = ROOT / "deploy" / "jobs" / "submit.sh"


def wait_for(is_so: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Poll until it is so."""
    until_s = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > until_s:
            raise SystemExit(f"{what} took more than {timeout_s:g} s")
        time.sleep(POLL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch that is submitted as a job."""

    spec: Path
    items: Path
    output: Path
    concurrency: int
    shard_items: int

    def submit(self, cluster: TwoNodes) -> str:
        """Hand the job in; gives its name."""
        name = f"batch-{time.monotonic_ns()}"
        command = [str(SUBMIT), str(self.spec), str(self.items), str(self.output)]
        command += ["--shard-items", str(self.shard_items), "--concurrency", str(self.concurrency)]
        variables = {
            **os.environ,  # noqa: TID251 - of the command
            "RAY_API_SERVER_ADDRESS": cluster.dashboard,
            "RAY_JOB_OPTIONS": f"--no-wait --submission-id={name}",
        }
        subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, timeout=UP_TIMEOUT_S, check=True)  # noqa: S603
        return name

    def status(self, cluster: TwoNodes, name: str) -> JobStatus:
        """Say how the job is; a busy dashboard is asked again."""
        try:
            return JobSubmissionClient(cluster.dashboard).get_job_status(name)
        except (OSError, RuntimeError):
            return JobStatus.RUNNING

    def log(self, cluster: TwoNodes, name: str) -> str:
        """Read what the job printed."""
        return JobSubmissionClient(cluster.dashboard).get_job_logs(name)

    def num_shards(self) -> int:
        """Count the shards that are there."""
        folder = Path(f"{self.output}{FOLDER_SUFFIX}") / "shards"
        return len(list(folder.glob("0*.jsonl"))) if folder.is_dir() else 0

    def has_shards(self, wanted: int) -> bool:
        """Say whether so many shards are there."""
        return self.num_shards() >= wanted

    def has_failed(self, cluster: TwoNodes, name: str) -> bool:
        """Say whether Ray has noticed that the job's process is gone."""
        return self.status(cluster, name) is JobStatus.FAILED

    def finish(self, cluster: TwoNodes, name: str) -> None:
        """Wait until the job succeeds."""
        until_s = time.monotonic() + JOB_TIMEOUT_S
        while not (status := self.status(cluster, name)).is_terminal():
            if time.monotonic() > until_s:
                raise SystemExit(f"the job did not end: {self.log(cluster, name)}")
            time.sleep(1.0)
        if status is not JobStatus.SUCCEEDED:
            raise SystemExit(f"the job ended as {status}: {self.log(cluster, name)}")


def run_in_peace(batch: Batch, cluster: TwoNodes) -> None:
    """Run a batch from its beginning to its end."""
    batch.finish(cluster, batch.submit(cluster))


def run_with_kills(batch: Batch, cluster: TwoNodes, *, num_shards: int) -> None:
    """Run a batch that something is killed of again and again, each time after some more shards are there."""
    name = batch.submit(cluster)
    for number, what in enumerate(KILLS, start=1):
        wanted = num_shards * number // (len(KILLS) + 1)
        wait_for(partial(batch.has_shards, wanted), timeout_s=JOB_TIMEOUT_S, what=f"{wanted} shards")
        print(f"{batch.num_shards()} shards are there: kill -9 of the {what}", flush=True)
        if what == "driver":
            driver = cluster.driver(batch.output)
            if driver is None:
                raise SystemExit("the driver is not found")
            driver.kill()
            wait_for(partial(batch.has_failed, cluster, name), timeout_s=UP_TIMEOUT_S, what="the job's failure")
            name = batch.submit(cluster)
        elif what == "worker":
            # The job goes on by itself: the members that died start again on the other node.
            print(f"with it go {', '.join(cluster.replicas('worker')) or 'no replicas'}", flush=True)
            cluster.kill("worker")
        else:
            cluster.kill("head")
            cluster.start()
            name = batch.submit(cluster)
    batch.finish(cluster, name)


def ids_of(path: Path) -> list[str]:
    """Read the ids in their order."""
    return [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=Path, default=ROOT / "deploy" / "specs" / "tweets.yaml")
    parser.add_argument("--data", type=Path, default=cache_dir() / "tweets" / "test.jsonl")
    parser.add_argument("--items", type=int, default=2_000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--shard-items", type=int, default=64)
    return parser.parse_args()


def main() -> None:
    """Run both and compare."""
    arguments = _parse_arguments()
    with two_nodes() as cluster:
        lines = arguments.data.read_text("utf-8").splitlines()[: arguments.items]
        items = cluster.folder / "items.jsonl"
        items.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        quiet, killed = (
            Batch(
                spec=arguments.spec.resolve(),
                items=items,
                output=cluster.folder / f"{name}.jsonl",
                concurrency=arguments.concurrency,
                shard_items=arguments.shard_items,
            )
            for name in ("quiet", "killed")
        )
        cluster.start()
        started_s = time.monotonic()
        run_in_peace(quiet, cluster)
        quiet_s = time.monotonic() - started_s
        run_with_kills(killed, cluster, num_shards=-(-len(lines) // arguments.shard_items))
        killed_s = time.monotonic() - started_s - quiet_s
        counts = Counter(ids_of(killed.output))
        wanted = ids_of(items)
        same_bytes = killed.output.read_bytes() == quiet.output.read_bytes()
        report = json.loads(Path(f"{quiet.output}{FOLDER_SUFFIX}", "report.json").read_text("utf-8"))
    print(json.dumps(report["this_run"]))
    print(
        f"RESULT batch_kills items={len(lines)} kills={len(KILLS)} missing={len(set(wanted) - set(counts))} "
        f"twice={sum(n > 1 for n in counts.values())} same_order={list(counts) == wanted} same_bytes={same_bytes} "
        f"quiet_s={quiet_s:.0f} killed_s={killed_s:.0f}"
    )
    if not same_bytes or list(counts) != wanted:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
