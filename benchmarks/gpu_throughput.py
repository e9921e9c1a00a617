"""The whole path's throughput beside bare vLLM's, and where the difference goes; a phase of benchmarks/gpu.py.

A bare vLLM and a member are up all the time on one GPU; one at a time works. In each round every way has a turn,
another one first each time, and no prompt comes twice: what is measured has its prompts to read.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu_bare import BareVllm
from gpu_load import ask_all, count_tokens
from gpu_parts import Scale, serving, write_shape, write_spec
from gpu_processes import read_cpu_s

from ensemble.router.request import VoteOptions

PATH_WAYS = ("path", "path_logprobs")
"""The whole path, which asks one member for no log-probabilities; the same where the client wants them."""
WAYS = (*PATH_WAYS, "final", "delta", "logprobs")
"""Bare vLLM, told at the end; told piece by piece; at the end with each token's log-probability, as flat lists."""
PLAIN_WAYS = ("final", "delta")
"""What bare vLLM gives when nothing is asked of it but tokens: the path is compared with the faster one."""
LONGEST_S = 300.0
"""No round begins that would not end within this, both starts included: machines with GPUs are lent for minutes."""

Turn = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class _Machine:
    """What takes turns on the GPU."""

    scale: Scale
    bare: BareVllm
    address: str

    async def warm_up(self) -> None:
        """Give every way as many requests as run at a time."""
        few = replace(self, scale=replace(self.scale, num_requests=self.scale.num_concurrent))
        for way in WAYS:
            await few.measure(way, f"{way}-warm")

    async def measure(self, way: str, asked_for: str) -> Turn:
        """Give tokens a second, CPU microseconds a token by role and, of the path, vLLM's steps."""
        cpu_before, started_s = read_cpu_s(), time.perf_counter()
        turn = await (self._ask_path(way, asked_for) if way in PATH_WAYS else self._ask_bare(way, asked_for))
        wall_s = time.perf_counter() - started_s
        cpu_s = {role: seconds - cpu_before[role] for role, seconds in read_cpu_s().items()}
        return {
            **turn,
            "cpu_share": {role: seconds / wall_s for role, seconds in cpu_s.items()},
            "cpu_us_per_token": {role: 1e6 * seconds / turn["tokens"] for role, seconds in cpu_s.items()},
        }

    async def _ask_path(self, way: str, asked_for: str) -> Turn:
        options = VoteOptions(include_logprobs=way == "path_logprobs")
        before = await count_tokens(self.address)
        load = await ask_all(self.address, self.scale, asked_for, busy=True, options=options)
        after = await count_tokens(self.address)
        return {
            "tokens": load.tokens,
            "tokens_per_s": load.tokens / load.wall_s,
            "outside_member_ms": 1e3 * statistics.median(load.outside_s),
            **_describe_steps({name: after[name] - before[name] for name in after}, load.wall_s),
        }

    async def _ask_bare(self, way: str, asked_for: str) -> Turn:
        tokens, wall_s = await self.bare.measure(way, self.scale, asked_for)
        return {"tokens": tokens, "tokens_per_s": tokens / wall_s}


def measure_throughput(
    scale: Scale, out: Path, sizes: dict[str, int], engine: dict[str, Any], *, keep: Callable[[Turn], None]
) -> Turn:
    """Let bare vLLM and the whole path take turns on one GPU; what there is after each round is kept."""
    started_s = time.monotonic()
    checkpoint = write_shape(out / f"shape-{sizes['num_hidden_layers']}", sizes)
    spec = out / "throughput.yaml"

    async def run() -> Turn:
        # Made in the loop that uses it.
        bare = BareVllm(scale, checkpoint, engine)
        keep({"bare_start_s": time.monotonic() - started_s})
        try:
            address = write_spec(spec, scale, {"one": (checkpoint, scale.half)}, engine=engine)
            with serving(spec) as start_s:
                keep({"start_s": start_s})
                machine = _Machine(scale=scale, bare=bare, address=address)
                rounds = await _take_turns(machine, until_s=started_s + LONGEST_S, keep=keep)
                return {**rounds, "counters": await count_tokens(address)}
        finally:
            bare.close()

    return asyncio.run(run())


async def _take_turns(machine: _Machine, *, until_s: float, keep: Callable[[Turn], None]) -> Turn:
    rounds: list[dict[str, Turn]] = []
    found: Turn = {}
    await machine.warm_up()
    for number in range(machine.scale.num_rounds):
        began_s = time.monotonic()
        first = number % len(WAYS)
        turns = {way: await machine.measure(way, f"{way}-{number}") for way in (*WAYS[first:], *WAYS[:first])}
        told = (f"{way} {turns[way]['tokens_per_s']:.0f}" for way in WAYS)
        print(f"round {number}, tokens/s: {', '.join(told)}", flush=True)
        rounds.append(turns)
        found = {**_compare(rounds), "rounds": rounds}
        keep(found)
        if 2 * time.monotonic() - began_s > until_s:
            break
    return found


def _compare(rounds: list[dict[str, Turn]]) -> Turn:
    # Within a round all met the same machine: ratios first, then their median.
    rates: list[dict[str, float]] = [{way: turns[way]["tokens_per_s"] for way in WAYS} for turns in rounds]

    def over(path: str, *ways: str) -> float:
        return statistics.median(rate[path] / max(rate[way] for way in ways) for rate in rates)

    return {
        **{f"{way}_tokens_per_s": statistics.median(rate[way] for rate in rates) for way in WAYS},
        "path_over_bare": over("path", *PLAIN_WAYS),
        "path_over_logprobs": over("path_logprobs", "logprobs"),
        "ways": {way: _median_turn([turns[way] for turns in rounds]) for way in WAYS},
    }


def _median_turn(turns: list[Turn]) -> Turn:
    """Take the median of every figure."""
    found: Turn = {}
    for name, value in turns[0].items():
        values = [turn[name] for turn in turns if name in turn]
        found[name] = _median_turn(values) if isinstance(value, dict) else statistics.median(values)
    return found


def _describe_steps(counted: dict[str, int], wall_s: float) -> Turn:
    """Say how full vLLM's steps were and how long each took; of no steps, nothing."""
    if not counted["steps"]:
        return {}
    return {
        "steps": counted["steps"],
        "mean_batch": counted["batched_requests"] / counted["steps"],
        "step_ms": 1e3 * wall_s / counted["steps"],
    }


def describe_throughput(shape: str, found: Turn) -> list[tuple[str, str]]:
    """Make the report's rows."""
    rates = "; ".join(f"{way} {found[f'{way}_tokens_per_s']:,.0f}" for way in WAYS)
    rows = [
        (f"{shape}, busy, tokens/s: the whole path in 2 ways; bare vLLM in 3", rates),
        (f"{shape}: whole path over the faster bare vLLM (final, delta)", f"{found['path_over_bare']:.3f}"),
        (f"{shape}: the same, both with log-probabilities", f"{found['path_over_logprobs']:.3f}"),
    ]
    for way in WAYS:
        turn = found["ways"][way]
        shares = ", ".join(f"{role} {share:.2f}" for role, share in turn["cpu_share"].items())
        rows.append((f"{shape}, {way}: cores in use", shares))
        costs = ", ".join(f"{role} {cost:.1f}" for role, cost in turn["cpu_us_per_token"].items())
        rows.append((f"{shape}, {way}: CPU microseconds a token", costs))
    for way in PATH_WAYS:
        turn = found["ways"][way]
        if "step_ms" in turn:
            steps = f"{turn['mean_batch']:.0f} requests, {turn['step_ms']:.1f} ms"
            rows.append((f"{shape}, {way}: a step of vLLM's, mean", steps))
    outside_ms = found["ways"]["path"]["outside_member_ms"]
    rows.append((f"{shape}: a request's time outside of its member's call, p50", f"{outside_ms:.1f} ms"))
    return rows
