"""An evaluation that is killed at random points and resumed ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ensemble.calibration.ballot_store import BALLOTS_FILE, JOURNAL_FILE
from tests.cli.specs import write_spec

DELAY_S_BY_MEMBER = {"fast": 0.01, "middling": 0.05, "slow": 0.25}
MEMBERS = tuple(DELAY_S_BY_MEMBER)
QUICK = {"fast", "middling"}
NUM_ITEMS = 36
CONCURRENCY = 3
NUM_KILLS = 3
TIMEOUT_S = 120.0
SPEC = f"""
version: 1
members:
{"".join(f"  - {{name: {name}, family: family-{name}, engine: {{type: echo}}}}" + chr(10) for name in MEMBERS)}
ensembles:
  - {{name: default, members: [{", ".join(MEMBERS)}]}}
"""
ENDPOINT = """
import asyncio, json, sys
from ensemble.engines.config import EchoEngineConfig
from ensemble.engines.echo import EchoEngine
from tests.rpc.systems import endpoint_running

class HeldEngine(EchoEngine):
    num_held = 0

    async def score(self, request):
        scores = await super().score(request)
        self.num_held += 1
        try:
            await gate.wait()
        finally:
            self.num_held -= 1
        return scores

async def serve():
    engines = {
        name: (HeldEngine if name == "slow" else EchoEngine)(EchoEngineConfig(seed=n, delay_s=delay_s), member=name)
        for n, (name, delay_s) in enumerate(json.loads(sys.argv[1]).items())
    }
    async with endpoint_running(engines) as endpoint:
        print(endpoint.address, flush=True)
        while command := await asyncio.to_thread(sys.stdin.readline):
            {"hold": gate.clear, "release": gate.set, "tell": bool}[command.strip()]()
            finished = {name: engine.stats().finished_requests for name, engine in engines.items()}
            print(json.dumps({"finished": finished, "held": engines["slow"].num_held}), flush=True)

gate = asyncio.Event()
gate.set()
asyncio.run(serve())
"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Three echo members in a process of their own, which tells their counters when it gets a line.

    The slow one's answers can be held back.
    """

    process: subprocess.Popen[str]
    address: str

    def finished_requests(self) -> Counter[str]:
        """Read how many requests each member's engine has finished."""
        return Counter(self._send("tell")["finished"])

    def num_held(self) -> int:
        """Count the slow one's answers that are held back."""
        return int(self._send("tell")["held"])

    @contextmanager
    def slow_one_held(self) -> Iterator[None]:
        """Hold the slow one's answers back."""
        self._send("hold")
        yield
        self._send("release")

    def _send(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Serve until the test is over; the process ends with its stdin."""
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", ENDPOINT, json.dumps(DELAY_S_BY_MEMBER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield Endpoint(process, process.stdout.readline().strip())
        process.communicate()


def write_items(folder: Path) -> Path:
    path = folder / "items.jsonl"
    lines = (
        {"id": f"q{n}", "prompt": f"Question {n}?", "choices": ["red", "green", "blue"], "answer": n % 3}
        for n in range(NUM_ITEMS)
    )
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def begin(spec: Path, items: Path, out: Path, endpoint: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ensemble.cli", "evaluate", str(spec), str(items), "--out", str(out)]
    return subprocess.Popen(  # noqa: S603 - our own program
        [*command, "--endpoint", endpoint, "--concurrency", str(CONCURRENCY)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    told, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, told


def stored_pairs(folder: Path) -> list[tuple[str, str]]:
    """Read which member's vote on which item the journal has, leaving out a line that is being written."""
    journal = folder / JOURNAL_FILE
    whole, _, _ = journal.read_bytes().rpartition(b"\n") if journal.exists() else (b"", b"", b"")
    return [(line["id"], line["member"]) for line in map(json.loads, whole.splitlines())]


def members_by_open_item(pairs: list[tuple[str, str]]) -> dict[str, set[str]]:
    """Give who has voted on the items on which somebody has not."""
    voted: dict[str, set[str]] = {}
    for item, member in pairs:
        voted.setdefault(item, set()).add(member)
    return {item: members for item, members in voted.items() if len(members) < len(MEMBERS)}


def wait_until_let_go(endpoint: Endpoint) -> None:
    """Wait until the slow one holds no answer for a process that was killed."""
    wait_until(lambda: endpoint.num_held() == 0, endpoint.process)


def has_votes(pairs: list[tuple[str, str]], *, num_votes: float) -> bool:
    """Say whether so many votes are stored."""
    return len(pairs) >= num_votes


def waits_for_the_slow_one(pairs: list[tuple[str, str]]) -> bool:
    """Say whether all items under way lack the slow one's vote alone."""
    return list(members_by_open_item(pairs).values()) == [QUICK] * CONCURRENCY


def has_ended(pairs: list[tuple[str, str]], *, items: set[str]) -> bool:
    """Say whether everybody has voted on these items."""
    return not items & set(members_by_open_item(pairs))


def wait_until(is_time: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until_s = time.monotonic() + TIMEOUT_S
    while not is_time():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until_s
        time.sleep(0.001)  # its journal is all that another process has to go by


def wait_for_votes(
    is_time: Callable[[list[tuple[str, str]]], bool], folder: Path, process: subprocess.Popen[str]
) -> None:
    """Wait until what a process has stored is so."""
    wait_until(lambda: is_time(stored_pairs(folder)), process)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.timeout(600)
def test_an_evaluation_killed_three_times_ends_with_the_same_ballots_and_asks_only_who_was_being_asked(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    generator = random.Random(time.time_ns())
    spec, items = write_spec(tmp_path, SPEC), write_items(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(begin(spec, items, whole, endpoint.address))
    before = endpoint.finished_requests()

    most_again: Counter[str] = Counter()
    for number in range(NUM_KILLS):
        num_wanted = (number + generator.random()) * NUM_ITEMS * len(MEMBERS) / (NUM_KILLS + 1) + 1
        process = begin(spec, items, killed, endpoint.address)
        wait_for_votes(partial(has_votes, num_votes=num_wanted), killed, process)
        kill(process)
        open_items = members_by_open_item(stored_pairs(killed)).values()
        # Of the items under way, whoever's vote is stored was not being asked.
        most_again.update({name: CONCURRENCY - sum(name in voted for voted in open_items) for name in MEMBERS})
    finish(begin(spec, items, killed, endpoint.address))

    again = endpoint.finished_requests()
    again.subtract(before)
    again.subtract(dict.fromkeys(MEMBERS, NUM_ITEMS))
    assert before == dict.fromkeys(MEMBERS, NUM_ITEMS)
    assert Counter(stored_pairs(killed)) == Counter((f"q{n}", name) for n in range(NUM_ITEMS) for name in MEMBERS)
    assert (killed / BALLOTS_FILE).read_bytes() == (whole / BALLOTS_FILE).read_bytes()
    assert all(0 <= again[name] <= most_again[name] for name in MEMBERS), (again, most_again)


@pytest.mark.timeout(600)
def test_members_that_answered_before_a_kill_are_not_asked_again_because_another_had_not(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    spec, items, out = write_spec(tmp_path, SPEC), write_items(tmp_path), tmp_path / "out"
    for _ in range(NUM_KILLS):
        # What the kill before left is open, too: it must be asked of the slow one first.
        left = set(members_by_open_item(stored_pairs(out)))
        process = begin(spec, items, out, endpoint.address)
        wait_for_votes(partial(has_ended, items=left), out, process)
        with endpoint.slow_one_held():
            wait_until(lambda: endpoint.num_held() == CONCURRENCY, process)
            wait_for_votes(waits_for_the_slow_one, out, process)
            kill(process)
            wait_until_let_go(endpoint)
    finish(begin(spec, items, out, endpoint.address))

    finished = endpoint.finished_requests()
    assert {name: finished[name] for name in QUICK} == dict.fromkeys(QUICK, NUM_ITEMS)
    assert NUM_ITEMS <= finished["slow"] <= NUM_ITEMS + NUM_KILLS * CONCURRENCY
