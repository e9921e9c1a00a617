"""The engines that the contract is checked on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ensemble.engines.config import (
    EchoEngineConfig,
    EmbeddedEngineConfig,
    EngineConfig,
    FusedEngineConfig,
    VllmEngineConfig,
)
from ensemble.engines.load import build_engine
from ensemble.engines.prompt_format import PromptFormat
from tests.engines.vllm_runs import MOST_VLLM_STEPS_TO_ABORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ensemble.engines.engine import Engine
    from tests.engines.vllm_runs import SharedVllm

# Far more than is decoded before an abort arrives.
MANY_TOKENS = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One engine under test, and a prompt that it answers with MANY_TOKENS tokens."""

    checkpoint: str
    config: Callable[[int, int], EngineConfig]
    long_prompt: str
    has_embeddings: bool = True
    counts_blocks: bool = True
    """Whether ``cache_share`` tells what the cache holds at that moment."""
    gives_unneeded_logprobs: bool = True
    most_steps_to_abort: int = 1

    @asynccontextmanager
    async def running(self, *, max_batch: int = 8, max_waiting: int = 64) -> AsyncIterator[Engine]:
        """Run the engine with that many places, and queue places."""
        engine = build_engine(
            self.config(max_batch, max_waiting), checkpoint=self.checkpoint, member="m", prompt_format=PromptFormat()
        )
        await engine.start()
        try:
            yield engine
        finally:
            await engine.close()


def echo_config(max_batch: int, max_waiting: int) -> EngineConfig:
    """Make an echo engine's options."""
    return EchoEngineConfig(max_waiting=max_batch + max_waiting)


def embedded_config(max_batch: int, max_waiting: int) -> EngineConfig:
    """Make an embedded engine's options, with steps that are small."""
    return EmbeddedEngineConfig(
        device="cpu", threads=1, max_batch=max_batch, max_waiting=max_waiting, max_context=4096, max_step_tokens=64
    )


def fused_config(other: str, method: str) -> Callable[[int, int], EngineConfig]:
    """Make what makes a fused engine's options: two checkpoints, the other one of which proposes or is drawn."""

    def config(max_batch: int, max_waiting: int) -> EngineConfig:
        return FusedEngineConfig.model_validate(
            {
                **embedded_config(max_batch, max_waiting).model_dump(exclude={"type"}),
                "others": (other,),
                "weights": (0.7, 0.3),
                "method": method,
            }
        )

    return config


def shared_vllm_config(max_batch: int, max_waiting: int) -> EngineConfig:
    """Make a vLLM engine's options; vLLM's own batch is that of the processes that run already."""
    return VllmEngineConfig(max_batch=max_batch, max_waiting=max_waiting, max_context=4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSubject(Subject):
    """A vLLM engine under test: a new one each time, in front of processes that the tests share."""

    shared: SharedVllm
    has_embeddings: bool = False
    gives_unneeded_logprobs: bool = False
    most_steps_to_abort: int = MOST_VLLM_STEPS_TO_ABORT

    @asynccontextmanager
    async def running(self, *, max_batch: int = 8, max_waiting: int = 64) -> AsyncIterator[Engine]:
        """Run the engine with that many places, and queue places."""
        async with self.shared.engine(self.config(max_batch, max_waiting)) as engine:
            yield engine
