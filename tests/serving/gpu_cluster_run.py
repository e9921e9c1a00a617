"""A cluster that believes to have four GPUs: what a parallel member reserves, and how two that share one start."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread

import ray
from ray import serve
from ray.util import placement_group_table

from ensemble.app import deploy
from ensemble.checkpoints.progress import ignore_phase
from ensemble.config import MemberConfig, ResourcesConfig, ServingConfig, VotingConfig
from ensemble.engines.gpu_turn import gpu_turn
from ensemble.environment import gpu_lock_dir
from ensemble.planning.fit import find_gpus
from ensemble.replica_servers import start_member, start_voting
from ensemble.serving.application import DeploymentPlan, bind_application
from ensemble.serving.cluster import ray_cluster, run_application
from ensemble.serving.deployment_states import DeploymentState
from tests.serving.systems import build_spec

GENEROUS_S = 60.0
NUM_GPUS = 4


def wait_until(is_so: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + GENEROUS_S
    while not is_so():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.1)  # Ray's tables are all there is to go by
    return True


def free_gpus() -> float:
    return float(ray.available_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]


def live_bundles() -> list[dict[str, float]]:
    groups = placement_group_table().values()
    return [bundle for group in groups if group["state"] == "CREATED" for bundle in group["bundles"].values()]


def run_parallel() -> dict[str, object]:
    """Deploy a member whose engine is said to be parallel, and take it away."""
    member = MemberConfig.model_validate({"name": "wide", "family": "x", "engine": {"type": "echo"}})
    resources = ResourcesConfig(cpus=1, gpus=2)
    wide = DeploymentPlan(
        name="member-wide",
        version="1",
        start=partial(start_member, member, "secret", GENEROUS_S),
        replicas=1,
        resources=resources,
        num_parallel=2,
    )
    front = DeploymentPlan(
        name="voting",
        version="1",
        start=partial(start_voting, VotingConfig().threads, "secret"),
        replicas=1,
        resources=ResourcesConfig(cpus=0),
    )
    application = bind_application(front, {"member-wide": wide}, ServingConfig())
    run_application(application, "wide", ServingConfig(), on_progress=lambda _states: None)
    bundles, free = live_bundles(), free_gpus()
    serve.delete("wide")
    return {"bundles": bundles, "free": free, "released": wait_until(lambda: free_gpus() == 4.0 and not live_bundles())}


@contextmanager
def turns_held(until: Event) -> Iterator[None]:
    """Hold every GPU's turn to start, as another member would, until then."""
    names = [gpu.uuid for gpu in find_gpus([str(number) for number in range(NUM_GPUS)])]
    held = Event()

    async def hold() -> None:
        async with gpu_turn(
            names, member="outsider", folder=gpu_lock_dir(), timeout_s=GENEROUS_S, on_phase=ignore_phase
        ):
            held.set()
            await asyncio.to_thread(until.wait, 3 * GENEROUS_S)

    thread = Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    held.wait(GENEROUS_S)
    try:
        yield
    finally:
        until.set()
        thread.join()


def run_shared(checkpoint: str) -> dict[str, object]:
    """Deploy two real engines on one GPU, whose turn to start is held until both wait for it."""
    waits: dict[str, list[str]] = {}
    both_wait = Event()

    def hear(states: tuple[DeploymentState, ...]) -> None:
        for state in states:
            for start in state.starts:
                told = waits.setdefault(state.name, []) if start.phase.startswith("waits for") else None
                if told is not None and start.phase not in told:
                    told.append(start.phase)
        if len(waits) > 1:
            both_wait.set()

    engine = {"type": "embedded", "threads": 1, "max_batch": 2, "max_context": 64}
    members = [
        {
            "name": name,
            "family": name,
            "checkpoint": checkpoint,
            "engine": engine,
            "resources": {"cpus": 0, "gpus": 0.5},
        }
        for name in "ab"
    ]
    with turns_held(both_wait):
        deploy(build_spec("shared-gpu", members), on_progress=hear)
    return {"free": free_gpus(), "waits": waits}


def main(checkpoint: str) -> None:
    """Print what was seen as a line of JSON."""
    temp_dir = Path(tempfile.mkdtemp(prefix="ens-"))
    try:
        with ray_cluster("", temp_dir=temp_dir, num_cpus=4, num_gpus=NUM_GPUS):
            seen = {"parallel": run_parallel(), "shared": run_shared(checkpoint)}
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
