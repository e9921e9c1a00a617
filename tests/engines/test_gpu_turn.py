"""Engines that share a GPU start one after another, whatever becomes of the one that is starting."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ensemble.engines.gpu_turn import gpu_turn
from ensemble.errors import ConfigError, MemberError
from tests.engines.gpu_turns import GENEROUS_S, GPU, hold, read_journal, run_engine, wait_for
from tests.engines.tiny_checkpoints import save_random_llama

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

CONTEXT = multiprocessing.get_context("spawn")


@contextmanager
def held(folder: Path) -> Iterator[BaseProcess]:
    """Run a process that holds the turn."""
    process = CONTEXT.Process(target=hold, args=(folder, "slow"), daemon=True)
    process.start()
    wait_for(folder, "slow", "starts")
    try:
        yield process
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder in which the turn of these tests' GPU is held."""
    return tmp_path_factory.mktemp("turns")


@pytest.fixture(scope="module")
def holder(folder: Path) -> Iterator[BaseProcess]:
    """Hold it, for all tests that do not need it back."""
    with held(folder) as process:
        yield process


def test_engines_of_one_gpu_start_one_after_another(tmp_path: Path) -> None:
    checkpoint = save_random_llama(tmp_path / "model")
    names = ["a", "b", "c"]
    processes = [CONTEXT.Process(target=run_engine, args=(tmp_path, checkpoint, name)) for name in names]

    for process in processes:
        process.start()
    for process in processes:
        process.join(GENEROUS_S)

    assert [process.exitcode for process in processes] == [0, 0, 0]
    events = read_journal(tmp_path)
    assert [event for _, event in events] == ["starts", "started"] * 3
    assert all(events[i][0] == events[i + 1][0] for i in range(0, 6, 2))
    assert {name for name, _ in events} == set(names)


async def take(
    folder: Path,
    told: asyncio.Queue[str] | None = None,
    *,
    timeout_s: float = GENEROUS_S,
    gpus: tuple[str, ...] = (GPU,),
) -> None:
    """Take the turn and give it back; hear what is told meanwhile."""

    def hear(phase: str, _share: float) -> None:
        if told is not None:
            told.put_nowait(phase)

    async with gpu_turn(gpus, member="next", folder=folder, timeout_s=timeout_s, on_phase=hear):
        pass


async def test_a_killed_holder_frees_the_next(tmp_path: Path) -> None:
    with held(tmp_path) as holder:
        assert holder.pid is not None
        told: asyncio.Queue[str] = asyncio.Queue()
        waiting = asyncio.create_task(take(tmp_path, told))
        line = await asyncio.wait_for(told.get(), GENEROUS_S)

        os.kill(holder.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        await asyncio.wait_for(waiting, GENEROUS_S)

    assert time.monotonic() - killed_s < 30
    assert line == f"waits for member slow (process {holder.pid}) to start on GPU {GPU}"


async def test_a_turn_that_does_not_come_names_who_has_it(folder: Path, holder: BaseProcess) -> None:
    with pytest.raises(MemberError, match=r"did not come within 0\.5 s") as caught:
        await take(folder, timeout_s=0.5)

    assert caught.value.member == "next"
    assert f"member slow (process {holder.pid})" in caught.value.problem


@pytest.mark.usefixtures("holder")
async def test_another_gpu_is_free(folder: Path) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()

    await take(folder, told, gpus=("another",), timeout_s=0.0)

    assert told.empty()


@pytest.mark.usefixtures("holder")
async def test_without_a_gpu_nobody_waits(folder: Path) -> None:
    await take(folder, gpus=(), timeout_s=0.0)


async def test_who_waits_can_be_cancelled_and_leaves_nothing_held(folder: Path, holder: BaseProcess) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    waiting = asyncio.create_task(take(folder, told, gpus=("another", GPU)))
    await asyncio.wait_for(told.get(), GENEROUS_S)

    waiting.cancel()
    await asyncio.wait([waiting])

    await take(folder, gpus=("another",), timeout_s=0.0)
    assert holder.is_alive()


async def test_a_failed_start_gives_its_turn_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with gpu_turn([GPU], member="bad", folder=tmp_path, timeout_s=1.0, on_phase=lambda *_: None):
            raise ZeroDivisionError

    await take(tmp_path, timeout_s=0.0)


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="ENSEMBLE_GPU_LOCK_DIR"):
        await take(tmp_path / "file" / "below")
