"""A client's process is killed in the middle of its stream: the member's engine gets the request's place back."""

from __future__ import annotations

import asyncio
import sys

import pytest

from ensemble.rpc.client import AsyncEnsembleClient
from tests.serving.systems import GENEROUS_S, RunningSystem, replica_stats, wait_for_stats

pytestmark = pytest.mark.ray

CLIENT = """
import sys
from ensemble.router.request import ParameterOverrides, VoteOptions
from ensemble.rpc.client import EnsembleClient

with EnsembleClient(sys.argv[1], timeout_s=300.0) as client:
    parameters, options = ParameterOverrides(max_tokens=3_500), VoteOptions(strategy="majority")
    events = client.stream_generate("w3 " * 400, ensemble=sys.argv[2], parameters=parameters, options=options)
    for number, _ in enumerate(events):
        if number == 2:
            print("reading", flush=True)
"""


@pytest.mark.parametrize("member", ["words", "tiny"], ids=["echo", "embedded"])
async def test_a_killed_clients_request_leaves_the_engine(system: RunningSystem, member: str) -> None:
    ensemble = f"only-{member}"
    async with AsyncEnsembleClient(system.address) as client:
        (before,) = (await replica_stats(client, ensemble, member)).values()
        killed = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENT, system.address, ensemble), stdout=asyncio.subprocess.PIPE
        )
        assert killed.stdout is not None
        async with asyncio.timeout(GENEROUS_S):
            assert await killed.stdout.readline() == b"reading\n"

        killed.kill()

        await killed.wait()
        after = await wait_for_stats(client, ensemble, member, lambda stats: not stats.running_requests)
        assert after.aborted_requests == before.aborted_requests + 1
        assert after.finished_requests == before.finished_requests
        assert after.aborted_tokens > before.aborted_tokens
        assert after.max_steps_to_abort <= 1
