#!/usr/bin/env python
"""The demo's steps, one after another."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from figures import (
    Answered,
    Run,
    Rush,
    Work,
    describe_accuracy,
    describe_losslessness,
    describe_rushes,
    describe_times,
    describe_work,
    right_by_member,
)
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from variants import make_variants

from ensemble.cli.failure import exit_code_of, failure_line
from ensemble.cli.live_vote import LiveVote
from ensemble.cli.options import find_panel
from ensemble.cli.serve import private_temp_dir, running
from ensemble.cli.terminal import one_line, seconds, stdout_console
from ensemble.cli.vote_view import follow_vote
from ensemble.engines.engine import EngineStats
from ensemble.errors import EndpointError, EnsembleError
from ensemble.router.request import QuorumOverrides, VoteOptions
from ensemble.rpc.client import EnsembleClient
from ensemble.spec_file import load_spec
from ensemble.voting.ballot import Voter
from ensemble.voting.decision import Decision

HERE = Path(__file__).parent
SPEC = HERE.parent / "deploy" / "specs" / "laptop.yaml"
PROMPT = "Why is the sky blue?"
RUSHES = (True, False, False, True)
"""Whether each round of all questions at once stops early: neither way profits from coming later."""
SHORT_ANSWERS = "weighted_vote"
"""Reads a short answer from each text and counts equal ones together."""
IDLE_TIMEOUT_S = 30.0
POLL_S = 0.02


def run(started_s: float) -> int:
    """Run the demo from beginning to end; gives the exit code. ``started_s`` is of the monotonic clock."""
    try:
        _show_all(stdout_console(), started_s)
    except EnsembleError as error:
        print(failure_line(error), file=sys.stderr)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return 130
    return 0


def _show_all(console: Console, started_s: float) -> None:
    _print_heading(console, "compressed checkpoints")
    num_made = make_variants(console)
    console.print(f"{num_made} made now, kept for the next time" if num_made else "all there already", style="dim")

    _print_heading(console, "serving")
    spec = load_spec(SPEC)
    spec = spec.model_copy(update={"router": spec.router.model_copy(update={"port": _find_free_port()})})
    with private_temp_dir() as temp_dir, running(spec, console, temp_dir=temp_dir):
        with EnsembleClient(f"127.0.0.1:{spec.router.port}") as client:
            asker = _Asker(client=client, console=console, panel=find_panel(client, "", ()))
            entries = yaml.safe_load((HERE / "questions.yaml").read_text("utf-8"))
            answered = _ask_questions(asker, entries, started_s, num_made=num_made)
            _ask_freely(asker)
            _print_heading(console, f"all questions at once, {len(RUSHES)} rounds")
            rushes = [asker.ask_all_at_once(entries, stops_early=stops_early) for stops_early in RUSHES]
        _print_summary(console, answered, rushes)


def _ask_questions(
    asker: _Asker, entries: Sequence[dict[str, Any]], started_s: float, *, num_made: int
) -> list[Answered]:
    console = asker.console
    answered: list[Answered] = []
    for index, entry in enumerate(entries):
        _print_heading(console, f"{index + 1}. {entry['question']}")
        answered.append(asker.ask_twice(entry, early_first=index % 2 == 0))
        if index == 0:
            first_s = time.monotonic() - started_s - answered[0].full.elapsed_s
            warmth = "with checkpoints to compress" if num_made else "with the checkpoints there"
            console.print(f"\nfrom start to first answer: {first_s:.1f} s, {warmth}", style="dim")
    return answered


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asker:
    """Asks one endpoint, shows the votes, and reads the engines' counters around them."""

    client: EnsembleClient
    console: Console
    panel: tuple[Voter, ...]

    def ask_twice(self, entry: dict[str, Any], *, early_first: bool) -> Answered:
        """Ask once with the early stop, drawn live, and once with everyone waited for, in the order given."""
        question, choices = entry["question"], entry.get("choices", [])

        def decide_early() -> Decision:
            events = (
                self.client.stream_classify(question, choices)
                if choices
                else self.client.stream_generate(question, options=VoteOptions(strategy=SHORT_ANSWERS))
            )
            return _decision(follow_vote(events, LiveVote.of(self.panel, choices), self.console))

        def decide_fully() -> Decision:
            return self.decide(entry, stops_early=False)

        if early_first:
            early, full = self._measure(decide_early), self._measure(decide_fully)
        else:
            full, early = self._measure(decide_fully), self._measure(decide_early)
        return Answered(question=question, expected=entry["answer"], early=early, full=full)

    def decide(self, entry: dict[str, Any], *, stops_early: bool) -> Decision:
        """Ask without drawing anything."""
        options = VoteOptions(quorum=QuorumOverrides(stop_early=stops_early))
        if "choices" in entry:
            return self.client.classify(entry["question"], entry["choices"], options=options)
        return self.client.generate(entry["question"], options=replace(options, strategy=SHORT_ANSWERS))

    def ask_all_at_once(self, entries: Sequence[dict[str, Any]], *, stops_early: bool) -> Rush:
        """Ask all questions at the same time, so that members have a queue."""
        before = self._wait_until_idle()
        asked_s = time.monotonic()
        with ThreadPoolExecutor(len(entries)) as pool:
            for _ in pool.map(partial(self.decide, stops_early=stops_early), entries):
                pass
        elapsed_s = time.monotonic() - asked_s
        work = Work.between(before, self._wait_until_idle())
        return Rush(stops_early=stops_early, elapsed_s=elapsed_s, work=work)

    def ask_freely(self, prompt: str) -> Run:
        """Ask for a text, drawn live."""
        return self._measure(
            lambda: _decision(follow_vote(self.client.stream_generate(prompt), LiveVote.of(self.panel), self.console))
        )

    def _measure(self, decide: Callable[[], Decision]) -> Run:
        before = self._wait_until_idle()
        asked_s = time.monotonic()
        decision = decide()
        elapsed_s = time.monotonic() - asked_s
        return Run(decision=decision, elapsed_s=elapsed_s, work=Work.between(before, self._wait_until_idle()))

    def _wait_until_idle(self) -> tuple[EngineStats, ...]:
        """Read all counters once nothing runs: what was cancelled must not slow the next vote, nor go uncounted."""
        until_s = time.monotonic() + IDLE_TIMEOUT_S
        while time.monotonic() < until_s:
            report = self.client.get_ensemble()
            stats = tuple(replica.stats for member in report.members for replica in member.replicas)
            if not any(one.running_requests or one.waiting_requests for one in stats):
                return stats
            time.sleep(POLL_S)
        raise EndpointError("the engines", "busy", f"they were not idle after {IDLE_TIMEOUT_S:.0f} s")


def _ask_freely(asker: _Asker) -> None:
    _print_heading(asker.console, f"a free text, chosen by mbr: {PROMPT}")
    freely = asker.ask_freely(PROMPT)
    asker.console.print(
        f"\n{freely.work.completion_tokens} tokens in {seconds(freely.elapsed_s)}; no text can be chosen before all are"
        " there, so nobody is cancelled",
        style="dim",
    )


def _decision(vote: LiveVote) -> Decision:
    if vote.decision is None:
        raise EndpointError("the endpoint", "UNKNOWN", "its stream ended without a decision")
    return vote.decision


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _print_summary(console: Console, answered: Sequence[Answered], rushes: Sequence[Rush]) -> None:
    _print_heading(console, "summary")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("question", "answer", "expected"):
        table.add_column(column, no_wrap=True)
    for column in ("ballots", "decided", "everyone"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("cancelled", style="yellow")
    for number, one in enumerate(answered, start=1):
        vote = LiveVote.of(()).hear(one.early.decision, elapsed_s=one.early.elapsed_s)
        decision = one.early.decision
        table.add_row(
            Text(one_line(f"{number}. {one.question}", width=32), no_wrap=True),
            Text(decision.answer, style="green" if one.is_right else "red"),
            Text(one.expected),
            f"{len(decision.ballots)} of {decision.num_asked}",
            seconds(one.early.elapsed_s),
            seconds(one.full.elapsed_s),
            Text(", ".join(vote.cancelled)),
        )
    console.print(table)
    console.print()
    for line in (
        describe_times(answered),
        describe_work(answered),
        describe_rushes(rushes),
        describe_losslessness(answered),
        _describe_members(answered),
        describe_accuracy(answered),
    ):
        console.print(Text(f"- {line}"))


def _print_heading(console: Console, heading: str) -> None:
    console.print()
    console.print(Rule(Text(heading), align="left"))


def _describe_members(answered: Sequence[Answered]) -> str:
    counts = ", ".join(f"{member} {right}" for member, right in right_by_member(answered).items())
    return f"right answers of each member alone, of {len(answered)}: {counts}"
