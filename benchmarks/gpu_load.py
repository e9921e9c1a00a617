"""The load that benchmarks/gpu.py puts on the whole path, and the prompts, which bare vLLM gets, too."""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gpu_parts import REQUEST_TIMEOUT_S, Scale

from ensemble.router.request import ParameterOverrides, VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient

_WORD = "abcdefghijklmnopqrstuvwxyz "


def make_prompts(scale: Scale, asked_for: str) -> list[str]:
    """Make prompts of as many tokens as are generated, which begin as those for nothing else do: none is cached."""
    prompts = []
    for number in range(scale.num_requests):
        # As long as a block of vLLM's cache, which keeps whole ones.
        beginning = hashlib.blake2b(f"{asked_for} {number}".encode(), digest_size=8).hexdigest()
        words = "".join(_WORD[(number * 7 + i * i) % len(_WORD)] for i in range(scale.num_tokens))
        prompts.append(f"{beginning} {words}"[: scale.num_tokens])
    return prompts


def num_tokens_of(scale: Scale, number: int, *, busy: bool) -> int:
    """Say how many tokens a prompt gets: of many, 50 to 150 % of the scale's number, so that not all end at once."""
    return scale.num_tokens // 2 + number * 37 % (scale.num_tokens + 1) if busy else scale.num_tokens


@dataclass(slots=True)
class Load:
    """What a client saw: tokens of counted ballots, seconds, and how the votes were decided."""

    wall_s: float = 0.0
    tokens: int = 0
    latencies_s: list[float] = field(default_factory=list)
    decided_by: Counter[str] = field(default_factory=Counter)
    num_ballots: int = 0
    outside_s: list[float] = field(default_factory=list)
    """Of a request's time, what its slowest member's call did not take."""

    def to_dict(self) -> dict[str, Any]:
        """Give the figures."""
        return {
            "wall_s": self.wall_s,
            "tokens_per_s": self.tokens / self.wall_s,
            "requests_per_s": len(self.latencies_s) / self.wall_s,
            "p50_s": statistics.median(self.latencies_s),
            "max_s": max(self.latencies_s),
            "decided_by": dict(self.decided_by),
            "ballots": self.num_ballots,
        }


async def ask_all(
    address: str, scale: Scale, asked_for: str, *, busy: bool, options: VoteOptions = VoteOptions()
) -> Load:
    """Ask prompts for this alone, many at a time or a few one by one."""
    load = Load()
    prompts = make_prompts(scale, asked_for)[: None if busy else scale.num_alone]
    room = asyncio.Semaphore(scale.num_concurrent if busy else 1)
    async with AsyncEnsembleClient(address, timeout_s=REQUEST_TIMEOUT_S) as client:

        async def ask(number: int, prompt: str) -> None:
            max_tokens = num_tokens_of(scale, number, busy=busy)
            parameters = ParameterOverrides(max_tokens=max_tokens, temperature=0.0)
            async with room:
                started_s = time.perf_counter()
                decision = await client.generate(prompt, parameters=parameters, options=options)
            latency_s = time.perf_counter() - started_s
            load.latencies_s.append(latency_s)
            load.outside_s.append(latency_s - max(ballot.latency_s for ballot in decision.ballots))
            load.decided_by[decision.decided_by.value] += 1
            load.num_ballots += len(decision.ballots)
            load.tokens += sum(ballot.completion_tokens for ballot in decision.ballots)

        started_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, prompt in enumerate(prompts):
                group.create_task(ask(number, prompt))
        load.wall_s = time.perf_counter() - started_s
    return load


async def count_tokens(address: str) -> dict[str, int]:
    """Read the members' counters: tokens read, generated, found in the cache; of cancelled requests; vLLM's steps."""
    async with AsyncEnsembleClient(address, timeout_s=60.0) as client:
        report = await client.get_ensemble("")
    stats = [replica.stats for member in report.members for replica in member.replicas]
    return {
        "prompt_tokens": sum(one.prompt_tokens for one in stats),
        "cached_prompt_tokens": sum(one.cached_prompt_tokens for one in stats),
        "completion_tokens": sum(one.completion_tokens for one in stats),
        "aborted_tokens": sum(one.aborted_tokens for one in stats),
        "aborted_requests": sum(one.aborted_requests for one in stats),
        "steps": sum(one.steps for one in stats),
        "batched_requests": sum(one.batched_requests for one in stats),
    }
