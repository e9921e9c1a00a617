"""What the system around the models costs: three echo members, asked one at a time and 32 at once, in three ways.

- ours: client -> router replica -> member replicas over gRPC, replicas chosen by Ray Serve
- floor: the same messages over bare grpc.aio between processes, no Ray, no vote but a count
- serve: the composition that Ray Serve documents: its gRPC proxy, an ingress deployment, members over handles

    python benchmarks/overhead.py [--rounds 5] [--requests 200]

The ways take turns round by round, so that a busy machine is busy for all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from ray import serve
from ray.serve.config import gRPCOptions
from ray.serve.handle import DeploymentHandle

from ensemble.app import deploy
from ensemble.engines.config import EchoEngineConfig
from ensemble.engines.echo import EchoEngine
from ensemble.engines.prompt_format import PromptFormat
from ensemble.generation import ScoringRequest
from ensemble.rpc.member_servicer import MemberServicer
from ensemble.serving.cluster import ray_cluster
from ensemble.spec_file import parse_spec
from ensemble.v1 import ensemble_service_pb2 as pb
from ensemble.v1 import ensemble_service_pb2_grpc, member_service_pb2, member_service_pb2_grpc, vote_pb2

MEMBERS = ("a", "b", "c")
CHOICES = ("yes", "no", "maybe")
PROMPT = "Is the sky blue on a clear day?"
CONCURRENCY = 32
START_TIMEOUT_S = 60.0


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def echo_engine(index: int) -> EchoEngine:
    """Make the same member for all three ways."""
    config = EchoEngineConfig(seed=index)
    return EchoEngine(config, checkpoint="", member=MEMBERS[index], prompt_format=PromptFormat())


def count(prompt_choices: tuple[str, ...], scores: list[list[float]]) -> pb.ClassifyResponse:
    """Decide by majority, as barely as can be."""
    votes = collections.Counter(prompt_choices[row.index(max(row))] for row in scores)
    answer, num = votes.most_common(1)[0]
    return pb.ClassifyResponse(decision=vote_pb2.Decision(answer=answer, agreement=num / len(scores)))


async def serve_floor_member(index: int, port: int) -> None:
    """Run one bare member."""
    engine = echo_engine(index)
    await engine.start()
    server = grpc.aio.server()
    servicer: Any = MemberServicer(MEMBERS[index], engine)
    member_service_pb2_grpc.add_MemberServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


class FloorRouter:
    """Asks three bare members and counts."""

    def __init__(self, ports: tuple[int, ...]) -> None:
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]
        self._stubs = [member_service_pb2_grpc.MemberServiceStub(channel) for channel in channels]

    async def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:  # noqa: N802
        """Fan out and count."""
        score = member_service_pb2.ScoreRequest(request_id="0", prompt=request.prompt, choices=request.choices)
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(_await(stub.Score(score, timeout=10))) for stub in self._stubs]
        return count(tuple(request.choices), [list(call.result().logprobs) for call in calls])


async def _await(call: Awaitable[Any]) -> Any:
    return await call


async def serve_floor_router(port: int, member_ports: tuple[int, ...]) -> None:
    """Run the bare router."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        FloorRouter(member_ports).Classify, pb.ClassifyRequest.FromString, pb.ClassifyResponse.SerializeToString
    )
    handlers = grpc.method_handlers_generic_handler("ensemble.v1.EnsembleService", {"Classify": handler})
    server.add_generic_rpc_handlers((handlers,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def run_process(serve_it: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Run a server as a process's main."""
    asyncio.run(serve_it(*args))  # type: ignore[arg-type]


@serve.deployment(max_ongoing_requests=1_000, ray_actor_options={"num_cpus": 0})
class ComposedMember:
    """An echo member behind a deployment handle."""

    def __init__(self, index: int) -> None:
        self._engine = echo_engine(index)

    async def score(self, prompt: str, choices: tuple[str, ...]) -> list[float]:
        """Give the choices' log-probabilities."""
        scores = await self._engine.score(ScoringRequest(request_id="0", prompt=prompt, choices=choices))
        return list(scores.logprobs)


@serve.deployment(max_ongoing_requests=1_000, ray_actor_options={"num_cpus": 0})
class ComposedRouter:
    """The ingress of the documented composition."""

    def __init__(self, *members: DeploymentHandle[Any]) -> None:
        self._members = members

    async def Classify(self, request: pb.ClassifyRequest) -> pb.ClassifyResponse:  # noqa: N802
        """Fan out and count."""
        choices = tuple(request.choices)
        calls = [member.score.remote(request.prompt, choices) for member in self._members]
        return count(choices, [await call for call in calls])


@dataclass(slots=True)
class Way:
    """One way, and what was measured of it: milliseconds one at a time, requests a second at once."""

    address: str
    metadata: tuple[tuple[str, str], ...] = ()
    latencies_ms: list[float] = field(default_factory=list)
    rates_per_s: list[float] = field(default_factory=list)

    async def wait_until_it_answers(self) -> None:
        """Ask until an answer comes."""
        request = pb.ClassifyRequest(prompt=PROMPT, choices=CHOICES)
        until_s = time.monotonic() + START_TIMEOUT_S
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub = ensemble_service_pb2_grpc.EnsembleServiceStub(channel)
            while True:
                try:
                    await stub.Classify(request, timeout=10, metadata=self.metadata, wait_for_ready=True)
                except grpc.aio.AioRpcError:
                    if time.monotonic() > until_s:
                        raise
                    await asyncio.sleep(0.5)
                else:
                    return

    async def measure(self, num_requests: int) -> None:
        """Run one round."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub = ensemble_service_pb2_grpc.EnsembleServiceStub(channel)
            # Every member is waited for in all three ways.
            options = pb.VoteOptions(quorum=vote_pb2.Quorum(stop_early=False))
            request = pb.ClassifyRequest(prompt=PROMPT, choices=CHOICES, options=options)

            async def ask() -> None:
                response = await stub.Classify(request, timeout=30, metadata=self.metadata)
                if response.decision.answer not in CHOICES:
                    raise RuntimeError(f"{self.address} answered {response.decision.answer!r}")

            for _ in range(20):
                await ask()
            for _ in range(num_requests):
                started_s = time.perf_counter()
                await ask()
                self.latencies_ms.append((time.perf_counter() - started_s) * 1_000)

            async def ask_in_turn() -> None:
                for _ in range(num_requests // 8):
                    await ask()

            started_s = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(CONCURRENCY):
                    group.create_task(ask_in_turn())
            self.rates_per_s.append(CONCURRENCY * (num_requests // 8) / (time.perf_counter() - started_s))


def start_floor() -> tuple[str, list[multiprocessing.process.BaseProcess]]:
    """Start the bare processes; returns the router's address."""
    context = multiprocessing.get_context("spawn")
    ports = tuple(free_port() for _ in MEMBERS)
    router_port = free_port()
    processes: list[multiprocessing.process.BaseProcess] = [
        context.Process(target=run_process, args=(serve_floor_member, index, port), daemon=True)
        for index, port in enumerate(ports)
    ]
    processes.append(context.Process(target=run_process, args=(serve_floor_router, router_port, ports), daemon=True))
    for process in processes:
        process.start()
    return f"127.0.0.1:{router_port}", processes


def start_ours() -> str:
    """Deploy our application; returns its address."""
    port = free_port()
    members = [
        {"name": name, "family": name, "engine": {"type": "echo", "seed": index}, "resources": {"cpus": 0}}
        for index, name in enumerate(MEMBERS)
    ]
    data = {
        "version": 1,
        "name": "ours",
        "router": {"port": port},
        "members": members,
        "ensembles": [{"name": "default", "members": list(MEMBERS), "classify_strategy": "majority"}],
    }
    deploy(parse_spec(data, source="benchmark", folder=Path()), on_progress=lambda _: None)
    return f"127.0.0.1:{port}"


def start_composition() -> str:
    """Deploy the documented composition; returns its proxy's address."""
    port = free_port()
    registration = "ensemble.v1.ensemble_service_pb2_grpc.add_EnsembleServiceServicer_to_server"
    serve.start(
        http_options={"port": free_port()},
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[registration]),
    )
    members = [
        ComposedMember.options(name=f"composed-{name}").bind(index)  # type: ignore[attr-defined]
        for index, name in enumerate(MEMBERS)
    ]
    serve.run(ComposedRouter.bind(*members), name="composed", route_prefix="/composed")  # type: ignore[attr-defined]
    return f"127.0.0.1:{port}"


async def measure_all(ways: dict[str, Way], *, num_rounds: int, num_requests: int) -> None:
    """Let the ways take turns."""
    for way in ways.values():
        await way.wait_until_it_answers()
    for number in range(num_rounds):
        for way in ways.values():
            await way.measure(num_requests)
        print(f"round {number + 1} of {num_rounds} done")


def main() -> None:
    """Measure, print a table, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="one at a time, in each round")
    args = parser.parse_args()

    floor_address, processes = start_floor()
    try:
        with tempfile.TemporaryDirectory(prefix="ov") as folder, ray_cluster("", temp_dir=Path(folder)):
            ways = {
                "serve": Way(start_composition(), metadata=(("application", "composed"),)),
                "ours": Way(start_ours()),
                "floor": Way(floor_address),
            }
            asyncio.run(measure_all(ways, num_rounds=args.rounds, num_requests=args.requests))
    finally:
        for process in processes:
            process.terminate()
            process.join(10)

    p50 = {name: statistics.median(way.latencies_ms) for name, way in ways.items()}
    rate = {name: statistics.median(way.rates_per_s) for name, way in ways.items()}
    print(f"{'way':8} {'p50 ms':>8} {'p95 ms':>8} {f'requests/s at {CONCURRENCY}':>18}")
    for name, way in ways.items():
        p95 = statistics.quantiles(way.latencies_ms, n=20)[-1]
        print(f"{name:8} {p50[name]:8.2f} {p95:8.2f} {rate[name]:18.0f}")
    print(
        f"RESULT overhead p50_over_floor={p50['ours'] / p50['floor']:.2f} "
        f"p50_serve_over_ours={p50['serve'] / p50['ours']:.2f} rps_over_serve={rate['ours'] / rate['serve']:.2f}"
    )


if __name__ == "__main__":
    main()
