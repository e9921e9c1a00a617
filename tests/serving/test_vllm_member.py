"""A member on vLLM inside a Ray Serve replica, asked through gRPC beside the same checkpoint on the embedded engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import pytest

from ensemble.router.request import ParameterOverrides, TextPiece, VoteOptions
from ensemble.rpc.client import AsyncEnsembleClient
from tests.engines.embedded_runs import packaged_smollm2
from tests.engines.vllm_runs import MOST_VLLM_STEPS_TO_ABORT, NEEDS_VLLM
from tests.serving.systems import RunningSystem, build_spec, remove, run, wait_for_stats

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, NEEDS_VLLM]

NAME = "vllm"
START_S = 500.0
MEMBERS = ("on-vllm", "embedded")
MANY = 900
MAJORITY = VoteOptions(strategy="majority")


@pytest.fixture(scope="module")
def system(cluster: None) -> Iterator[RunningSystem]:  # noqa: ARG001 - it must run
    """Serve SmolLM2 on both engines."""
    shared = {"family": "smollm2", "checkpoint": packaged_smollm2(), "resources": {"cpus": 0}}
    cpu = {"device": "cpu", "dtype": "float32", "threads": 1, "max_context": 1024}
    engines = ({"type": "vllm", "kv_cache_gib": 0.25, **cpu}, {"type": "embedded", **cpu})
    members = [{"name": name, "engine": engine, **shared} for name, engine in zip(MEMBERS, engines, strict=True)]
    system = run(
        build_spec(
            NAME,
            members,
            ensembles=[
                {"name": "default", "members": list(MEMBERS)},
                {"name": "only-vllm", "members": [MEMBERS[0]]},
            ],
            limits={"max_tokens": MANY, "member_timeout_s": 120.0},
            serving={"start_timeout_s": START_S},
        )
    )
    yield system
    remove(NAME)


@pytest.mark.timeout(START_S + 60)
async def test_vllm_votes_as_the_embedded_engine_does_on_the_same_checkpoint(system: RunningSystem) -> None:
    choices = ("water", "milk and honey", "petrol")
    async with AsyncEnsembleClient(system.address, timeout_s=120.0) as client:
        decision = await client.classify("What do cows drink?", choices)

    on_vllm, embedded = decision.ballots
    assert on_vllm.choice == embedded.choice == decision.answer
    assert on_vllm.probabilities == pytest.approx(embedded.probabilities, abs=1e-3)
    assert on_vllm.logprob == pytest.approx(embedded.logprob, abs=1e-3)


async def test_vllm_writes_what_the_embedded_engine_writes(system: RunningSystem) -> None:
    async with AsyncEnsembleClient(system.address, timeout_s=120.0) as client:
        decision = await client.generate("The capital of France is", parameters=ParameterOverrides(max_tokens=16))

    on_vllm, embedded = decision.ballots
    assert on_vllm.text == embedded.text
    assert on_vllm.completion_tokens == embedded.completion_tokens > 0


async def test_a_client_that_leaves_its_stream_takes_its_request_out_of_vllm(system: RunningSystem) -> None:
    async with AsyncEnsembleClient(system.address, timeout_s=120.0) as client:
        before = await wait_for_stats(client, "only-vllm", MEMBERS[0], lambda stats: not stats.running_requests)
        stream = client.stream_generate(
            "Once upon a time", ensemble="only-vllm", parameters=ParameterOverrides(max_tokens=MANY), options=MAJORITY
        )
        async with aclosing(stream) as events:
            heard = [await anext(events) for _ in range(3)]
        after = await wait_for_stats(
            client,
            "only-vllm",
            MEMBERS[0],
            lambda stats: stats.aborted_requests > before.aborted_requests and not stats.running_requests,
        )

    assert all(isinstance(event, TextPiece) for event in heard)
    assert after.max_steps_to_abort <= MOST_VLLM_STEPS_TO_ABORT
    assert after.aborted_tokens - before.aborted_tokens < MANY
