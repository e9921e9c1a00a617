"""What the operator asks for and cannot have is said before or instead of serving, with the place and the remedy."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ensemble.app import deploy
from ensemble.config import Spec
from ensemble.errors import ConfigError
from ensemble.rpc.client import AsyncEnsembleClient
from ensemble.serving.deployment_states import is_running
from tests.ports import HOST
from tests.serving.systems import GENEROUS_S, POLL_S, RunningSystem, build_spec, echo_member, remove, run

pytestmark = pytest.mark.ray


@pytest.fixture
def unborn(cluster: None) -> Iterator[str]:  # noqa: ARG001 - it must run
    """Name an application that must not come up, and take away what came of it."""
    yield "unborn"
    remove("unborn")


def refuse(spec: Spec) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        deploy(spec, on_progress=lambda _states: None)
    assert caught.value.problem
    assert caught.value.remedy
    return caught.value


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + GENEROUS_S
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(POLL_S)  # Serve's status is all there is to go by


# The rows: what the second member asks for, how many of it, and the field that is to blame.
TOO_MUCH = [
    ({"gpus": 1}, 1, "members[1].resources.gpus"),
    ({"gpus": 0.25}, 2, "members[1].resources.gpus"),
    ({"cpus": 10_000}, 1, "members[1].resources.cpus"),
    ({"cpus": 3}, 3, "resources.cpus"),
    ({"memory_gib": 1e6}, 1, "members[1].resources.memory_gib"),
]


@pytest.mark.parametrize(("resources", "replicas", "field"), TOO_MUCH)
def test_resources_that_the_machine_lacks_are_refused_by_field(
    unborn: str, resources: dict[str, float], replicas: int, field: str
) -> None:
    greedy = {**echo_member("greedy", replicas=replicas), "resources": resources}

    error = refuse(build_spec(unborn, [echo_member("a"), greedy]))

    assert error.where == field


@pytest.mark.parametrize("part", ["router", "voting"])
def test_the_routers_and_the_voters_cores_count_too(unborn: str, part: str) -> None:
    greedy = {"cpus": 3, "replicas": 3, **({"port": 9000} if part == "router" else {})}

    error = refuse(build_spec(unborn, [echo_member("a")], **{part: greedy}))

    assert error.where == "resources.cpus"


def test_a_port_in_use_is_refused_by_field(unborn: str) -> None:
    with socket.socket() as stranger:
        stranger.bind((HOST, 0))
        stranger.listen()
        port = stranger.getsockname()[1]

        error = refuse(build_spec(unborn, [echo_member("a")], router={"port": port}))

    assert error.where == "router.port"
    assert str(port) in error.problem


def test_a_port_of_another_application_is_refused_too(system: RunningSystem, unborn: str) -> None:
    port = system.spec.router.port

    error = refuse(build_spec(unborn, [echo_member("a")], router={"port": port}))

    assert error.where == "router.port"


def test_a_host_that_is_not_this_machines_is_refused_by_field(unborn: str) -> None:
    error = refuse(build_spec(unborn, [echo_member("a")], router={"host": "203.0.113.1", "port": 9000}))

    assert error.where.startswith("router.")
    assert "203.0.113.1" in error.problem


def test_a_checkpoint_that_is_missing_is_named_with_its_member(unborn: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "no-such-checkpoint")
    lost: dict[str, object] = {
        "name": "lost",
        "family": "f",
        "checkpoint": missing,
        "engine": {"type": "embedded", "device": "cpu", "threads": 1},
        "resources": {"cpus": 0},
    }

    error = refuse(build_spec(unborn, [lost], serving={"start_timeout_s": 120.0}))

    assert missing in str(error)
    assert "lost" in str(error)
    wait_until(lambda: not is_running(unborn))


def test_an_application_that_is_late_is_taken_away(unborn: str) -> None:
    error = refuse(build_spec(unborn, [echo_member("a")], serving={"start_timeout_s": 0.01}))

    assert error.where == "serving.start_timeout_s"
    wait_until(lambda: not is_running(unborn))


def test_an_update_that_is_late_leaves_the_application_running(unborn: str) -> None:
    running = run(build_spec(unborn, [echo_member("a")]))
    serving = {"start_timeout_s": 0.01, "revision": "2"}

    refuse(build_spec(unborn, [echo_member("a")], router={"port": running.spec.router.port}, serving=serving))

    assert is_running(unborn)


async def test_after_a_failure_the_same_name_can_be_deployed(unborn: str) -> None:
    refuse(build_spec(unborn, [{**echo_member("a"), "resources": {"gpus": 1}}]))

    running = await asyncio.to_thread(run, build_spec(unborn, [echo_member("a")]))

    async with AsyncEnsembleClient(running.address) as client:
        assert (await client.generate("one two")).answer == "one two"
