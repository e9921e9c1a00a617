"""A batch that is killed and begun again, or loses a member's process, ends with the bytes of a quiet one."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.batch.commands import TIMEOUT_S, begin, finish
from tests.cli.specs import write_spec
from tests.rpc.systems import build_echo, endpoint_running

DELAY_S = 0.05
NUM_ITEMS = 120
SHARD_ITEMS = 8
NUM_SHARDS = NUM_ITEMS // SHARD_ITEMS
SIZES = ("--shard-items", str(SHARD_ITEMS), "--concurrency", "4")
MEMBERS = ("a", "b", "c")
SPEC = json.dumps(
    {
        "version": 1,
        "members": [
            {
                "name": member,
                "family": f"family-{member}",
                "engine": {"type": "echo", "seed": seed, "delay_s": DELAY_S},
                "resources": {"cpus": 0},
            }
            for seed, member in enumerate(MEMBERS)
        ],
        "ensembles": [{"name": "default", "members": MEMBERS, "generate_strategy": "majority"}],
    }
)
"""JSON is YAML."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve the spec's members from a thread with a loop of its own."""
    addresses: list[str] = []
    is_up, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        engines = {name: build_echo(name, seed=n, delay_s=DELAY_S) for n, name in enumerate(MEMBERS)}
        async with endpoint_running(engines) as running:
            addresses.append(running.address)
            is_up.set()
            await asyncio.to_thread(is_over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    is_up.wait()
    yield addresses[0]
    is_over.set()
    thread.join()


def write_items(folder: Path) -> Path:
    path = folder / "in.jsonl"
    rows = (
        {"id": f"q{n}", "prompt": f"Question {n}?", **({"choices": ["red", "green", "blue"]} if n % 5 else {})}
        for n in range(NUM_ITEMS)
    )
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def num_shards(out: Path) -> int:
    folder = Path(f"{out}.batch") / "shards"
    return len(list(folder.glob("0*.jsonl"))) if folder.is_dir() else 0


def wait_until(is_time: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until_s = time.monotonic() + TIMEOUT_S
    while not is_time():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until_s
        time.sleep(0.005)  # its files are all that another process has to go by


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def num_asked(out: Path) -> int:
    report = json.loads(Path(f"{out}.batch", "report.json").read_text("utf-8"))
    return int(report["this_run"]["num_asked"])


@pytest.mark.timeout(600)
def test_a_batch_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(endpoint: str, tmp_path: Path) -> None:
    write_spec(tmp_path, SPEC)
    write_items(tmp_path)
    quiet, killed = tmp_path / "quiet.jsonl", tmp_path / "killed.jsonl"
    finish(begin(tmp_path, quiet, *SIZES, "--endpoint", endpoint))

    for wanted in (1, NUM_SHARDS // 3, 2 * NUM_SHARDS // 3):
        process = begin(tmp_path, killed, *SIZES, "--endpoint", endpoint)
        wait_until(lambda wanted=wanted: num_shards(killed) >= wanted, process)  # type: ignore[misc]
        kill(process)
        assert not killed.exists()
    finish(begin(tmp_path, killed, *SIZES, "--endpoint", endpoint))

    assert [json.loads(line)["id"] for line in killed.read_text("utf-8").splitlines()] == [
        f"q{n}" for n in range(NUM_ITEMS)
    ]
    assert killed.read_bytes() == quiet.read_bytes()
    assert 0 < num_asked(killed) <= NUM_ITEMS - SHARD_ITEMS * (2 * NUM_SHARDS // 3)


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("cluster")
def test_a_batch_on_a_cluster_outlives_its_driver_and_a_members_process(endpoint: str, tmp_path: Path) -> None:
    import ray  # noqa: PLC0415 - seconds to import

    write_spec(tmp_path, SPEC)
    write_items(tmp_path)
    quiet, killed = tmp_path / "quiet.jsonl", tmp_path / "killed.jsonl"
    finish(begin(tmp_path, quiet, *SIZES, "--endpoint", endpoint))
    address = ray.get_runtime_context().gcs_address

    process = begin(tmp_path, killed, *SIZES, "--address", address)
    wait_until(lambda: num_shards(killed) >= NUM_SHARDS // 3, process)
    kill(process)
    # The next one takes the application over. It is looked for now: the batch does not wait until it is found.
    (replica,) = replicas_of("member-b")
    process = begin(tmp_path, killed, *SIZES, "--address", address)
    wait_until(lambda: num_shards(killed) > NUM_SHARDS // 2, process)
    replica.kill()
    finish(process)

    assert killed.read_bytes() == quiet.read_bytes()
    assert 0 < num_asked(killed) <= NUM_ITEMS - SHARD_ITEMS * (NUM_SHARDS // 3)
    psutil.wait_procs(replicas_of("router"), timeout=TIMEOUT_S)
    assert not replicas_of("router")


def replicas_of(deployment: str) -> list[psutil.Process]:
    """Find a deployment's replicas in the batches' own applications, on the cluster that these tests started."""
    title = re.compile(rf"ServeReplica:batch-\w+:{deployment}\b")
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if title.search(" ".join(process.cmdline())):
                found.append(process)
        except psutil.Error:
            continue
    return found
