"""The board that replicas tell their start to, on a real cluster: whoever starts it, and whatever becomes of that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ensemble.errors import CheckpointError, StartError
from ensemble.serving.namespace import NAMESPACE
from ensemble.serving.start_board import BOARD, read_starts, start_board, start_told
from ensemble.serving.start_notes import ReplicaName
from tests.serving.systems import GENEROUS_S, POLL_S

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def tell_from_replica(name: str) -> None:
    """Start a board and tell it something, as a replica does; runs in a process of Ray's."""
    replica = ReplicaName(application="shop", deployment="member-a", replica_id="1")
    ray.get(start_board(name).hear.remote(replica, "load", 0.0, ""), timeout=GENEROUS_S)


def find_board(name: str) -> Any:
    """Give a board by name; None when there is none."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + GENEROUS_S
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(POLL_S)  # Ray's tables are all there is to go by


def test_a_board_outlives_the_placement_group_of_the_replica_that_started_it() -> None:
    group = placement_group([{"CPU": 1}])
    inside = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    tell = ray.remote(num_cpus=1)(tell_from_replica).options(scheduling_strategy=inside)
    ray.get(tell.remote("board-of-a-group"), timeout=GENEROUS_S)

    remove_placement_group(group)

    board = find_board("board-of-a-group")
    wait_until(lambda: ray.util.placement_group_table(group)["state"] == "REMOVED")
    assert set(ray.get(board.tell.remote("shop"), timeout=GENEROUS_S)) == {"member-a"}
    ray.kill(board)


def test_a_board_that_hears_nothing_ends_for_good() -> None:
    replica = ReplicaName(application="shop", deployment="member-a", replica_id="1")
    board = start_board("board-of-nobody", unused_s=1.0)
    ray.get(board.hear.remote(replica, "load", 0.0, ""), timeout=GENEROUS_S)

    wait_until(lambda: find_board("board-of-nobody") is None)


def test_reading_starts_no_board() -> None:
    was_there = find_board(BOARD) is not None

    assert read_starts("no-such-application") == {}

    assert (find_board(BOARD) is not None) is was_there


async def test_a_failed_start_tells_its_phase_though_the_board_is_away() -> None:
    board = start_board("board-that-goes")
    ray.kill(board)
    replica = ReplicaName(application="shop", deployment="member-a", replica_id="1")

    async def fail() -> None:
        async with start_told(board, replica) as teller:
            teller.on_phase("load", 0.5)
            raise CheckpointError("tiny.gguf", "it is cut short", "fetch it again")

    with pytest.raises(StartError) as caught:
        await fail()

    assert str(caught.value) == "tiny.gguf: it is cut short; fetch it again (in the phase 'load')"
