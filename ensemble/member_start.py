"""The start of a member's engine: its checkpoints are fetched, its GPU's turn comes, and it is loaded or taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from ensemble.checkpoints import resolve_checkpoint
from ensemble.checkpoints.digest import resolve_pinned
from ensemble.checkpoints.progress import OnPhase
from ensemble.config import MemberConfig
from ensemble.engines.engine import Engine
from ensemble.engines.gpu_turn import gpu_turn
from ensemble.engines.load import build_engine
from ensemble.environment import cache_dir, gpu_lock_dir, visible_gpus
from ensemble.errors import MemberError
from ensemble.planning.fit import find_gpus, fit_to_gpus
from ensemble.planning.machine import Gpu

CLOSE_TIMEOUT_S = 60.0
"""Engines bound how long they wait for a model, but not for one that is still being loaded."""


async def start_engine(member: MemberConfig, *, timeout_s: float, on_phase: OnPhase) -> Engine:
    """Give the member's engine once it is loaded; members that share a GPU load one after another.

    Raises:
        MemberError: the GPU's turn did not come, or the engine was not up, within ``timeout_s`` each.
        ConfigError: the machine or the checkpoint cannot do what the spec asks.
    """
    found = await asyncio.to_thread(_prepare, member, on_phase)
    # A parallel engine has its GPUs to itself.
    gpus = await asyncio.to_thread(find_gpus, visible_gpus()) if member.is_on_gpu and member.num_parallel == 1 else ()
    names = [gpu.uuid or str(gpu.index) for gpu in gpus]
    async with gpu_turn(names, member=member.name, folder=gpu_lock_dir(), timeout_s=timeout_s, on_phase=on_phase):
        # Some engines take half a minute to import.
        on_phase("import the engine", 0.0)
        engine = await asyncio.to_thread(_build, found, gpus)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await engine.start(on_phase)
        except BaseException as error:
            # Before its turn ends: the next one must not find it still on the GPU.
            await take_away(engine)
            if isinstance(error, TimeoutError) and limit.expired():
                problem = (
                    f"its engine was not up within {timeout_s:g} s; raise serving.start_timeout_s if that is short"
                )
                raise MemberError(member.name, problem) from error
            raise
    return engine


async def take_away(engine: Engine) -> None:
    """Close the engine of a replica whose start failed; what hangs for longer ends with the replica's process."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await engine.close()


def _prepare(member: MemberConfig, on_phase: OnPhase) -> MemberConfig:
    """Fetch or convert what a member runs, before a GPU waits for it, and see that it is what was pinned.

    Gives the member with its folders in the references' place, so that what was checked is what runs.
    """
    references = tuple(member.checkpoint_by_field.values())
    folder = cache_dir() / "checkpoints"
    if member.checkpoint_digest:
        pinned = (*references, member.adapter) if member.adapter else references
        folders = resolve_pinned(pinned, member.checkpoint_digest, cache_dir=folder, on_phase=on_phase)
    else:
        resolved = {
            reference: resolve_checkpoint(reference, cache_dir=folder, on_phase=on_phase)
            for reference in dict.fromkeys(references)
        }
        folders = tuple(resolved[reference] for reference in references)
    return _with_folders(member, [str(one) for one in folders])


def _with_folders(member: MemberConfig, folders: Sequence[str]) -> MemberConfig:
    if not folders:
        return member
    own, *others = folders
    changed: dict[str, object] = {"checkpoint": own}
    if hasattr(member.engine, "others"):
        changed["engine"] = member.engine.model_copy(update={"others": tuple(others)})
    return member.model_copy(update=changed)


def _build(member: MemberConfig, gpus: Sequence[Gpu]) -> Engine:
    return build_engine(
        fit_to_gpus(member, gpus),
        checkpoint=member.checkpoint,
        member=member.name,
        prompt_format=member.prompt,
        cache_dir=cache_dir() / "checkpoints",
    )
