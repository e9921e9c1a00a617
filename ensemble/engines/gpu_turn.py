"""Engines that share a GPU start one after another: each would measure memory in which another one is starting.

The turn is a file lock for each GPU in a folder of this machine. The system frees it when its holder's process ends,
however that ends. Two members that share several GPUs take the locks in one order.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ensemble.checkpoints.progress import OnPhase
from ensemble.errors import ConfigError, MemberError

POLL_S = 0.2
_EVERYONES = 0o666


@asynccontextmanager
async def gpu_turn(
    gpus: Sequence[str], *, member: str, folder: Path, timeout_s: float, on_phase: OnPhase
) -> AsyncGenerator[None]:
    """Hold these GPUs' turn to start, once whoever holds it now has started; no GPUs, no turn.

    Raises:
        MemberError: the turn did not come within ``timeout_s``.
        ConfigError: the folder cannot be used.
    """
    until_s = time.monotonic() + timeout_s
    held: list[FileLock] = []
    try:
        for gpu in sorted(set(gpus)):
            path = _lock_path(folder, gpu)
            # Taken and released by one task, whatever thread runs it.
            lock = FileLock(path, mode=_EVERYONES, thread_local=False)
            await _acquire(lock, gpu, member=member, until_s=until_s, timeout_s=timeout_s, on_phase=on_phase)
            held.append(lock)
            _note_holder(path, member)
        yield
    finally:
        for lock in reversed(held):
            lock.release()


async def _acquire(
    lock: FileLock, gpu: str, *, member: str, until_s: float, timeout_s: float, on_phase: OnPhase
) -> None:
    told = ""
    while True:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            holder = _read_holder(Path(lock.lock_file))
        except OSError as error:
            raise ConfigError(
                lock.lock_file,
                f"the GPU's lock cannot be used ({error})",
                "set ENSEMBLE_GPU_LOCK_DIR to another folder",
            ) from error
        else:
            return
        if time.monotonic() > until_s:
            raise MemberError(
                member,
                f"its turn to start on GPU {gpu} did not come within {timeout_s:g} s, since {holder} has been starting "
                "there; end that one, or raise serving.start_timeout_s",
            )
        if told != holder:
            told = holder
            on_phase(f"waits for {holder} to start on GPU {gpu}", 0.0)
        await asyncio.sleep(POLL_S)


def _lock_path(folder: Path, gpu: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # another user's, who has opened it to everyone
            folder.chmod(0o1777)
    except OSError as error:
        raise ConfigError(
            str(folder), f"GPUs' locks cannot be kept there ({error})", "set ENSEMBLE_GPU_LOCK_DIR to another folder"
        ) from error
    # A name from the driver may hold anything.
    return folder / f"gpu-{hashlib.sha256(gpu.encode()).hexdigest()[:16]}.lock"


def _note_holder(lock: Path, member: str) -> None:
    """Write down who holds a lock, for those who wait; not in the lock's own file, which whoever tries it empties."""
    path = lock.with_suffix(f".holder-{os.getuid()}")
    with suppress(OSError):
        path.write_text(json.dumps({"member": member, "pid": os.getpid(), "since_s": time.time()}), "utf-8")


def _read_holder(lock: Path) -> str:
    """Name who holds a lock now: the newest note of a process that lives."""
    notes = []
    for path in lock.parent.glob(f"{lock.stem}.holder-*"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(path.read_text("utf-8"))
            notes.append((float(note["since_s"]), str(note["member"]), int(note["pid"])))
    for _, member, pid in sorted(notes, reverse=True):
        if Path(f"/proc/{pid}").exists():
            return f"member {member} (process {pid})"
    return "another process"
